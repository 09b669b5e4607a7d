//! What holds whatever happens, and in whatever order.

use nixci_protocol::nixci::report::StatusState;
use proptest::prelude::*;

use super::world::{Faults, MINUTE, SUMMARY, World, github};

/// What happens besides the sending.
#[derive(Debug, Clone)]
enum Happening {
    /// A context of an evaluation is to say something else.
    Want(u8, i64, StatusState),
    /// The daemon is killed and started again.
    Crash,
    /// The forge goes away.
    Down,
    /// It comes back.
    Up,
}

fn happening() -> impl Strategy<Value = Happening> {
    let state = prop::sample::select(StatusState::ALL.to_vec());
    prop_oneof![
        20 => (0_u8..12, 1_i64..3, state).prop_map(|(context, of, state)| Happening::Want(context, of, state)),
        3 => Just(Happening::Crash),
        1 => Just(Happening::Down),
        2 => Just(Happening::Up),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Everything that is final is shown in the end and as it is to be, an older state never follows a newer one (the
    /// forge of the test asserts that), and no more is written than there are changes, lost answers and kills.
    #[test]
    fn everything_is_shown_in_the_end_and_nothing_old_after_new(
        seed: u64,
        lost in 0.0..0.3_f64,
        unknown in 0.0..0.1_f64,
        failed in 0.0..0.2_f64,
        happenings in prop::collection::vec((0_i64..4_000, happening()), 1..60),
    ) {
        let faults = Faults { lost, unknown, failed, slow: 700, late: 900 };
        let mut world = World::new(&github(), &[(80, MINUTE)], faults, seed);
        let (mut wants, mut crashes) = (0, 0);
        for (wait, happening) in happenings {
            world.run_until(world.now + wait);
            match happening {
                Happening::Want(context, of, state) => {
                    let name = if context == 0 { SUMMARY.to_owned() } else { format!("job{context}") };
                    world.want_at(world.now, of, &name, state);
                    wants += 1;
                }
                Happening::Crash => {
                    world.crash();
                    crashes += 1;
                }
                Happening::Down => world.forge.is_down = true,
                Happening::Up => world.forge.is_down = false,
            }
        }
        world.forge.is_down = false;
        world.run();
        world.assert_all_shown();
        prop_assert!(world.writes() <= wants + crashes * 8, "{} writes of {wants} changes", world.writes());
    }
}
