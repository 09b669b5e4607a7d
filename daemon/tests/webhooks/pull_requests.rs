//! Pull requests: which head is known, and what is cancelled for it.

use nixci_protocol::nixci::AddClosure;
use nixci_protocol::nixci::control::{
    Begun, Changed, Evaluated, EvaluationId, EvaluationState, EvaluationSummary, NewJob, Request, Selector, Submission,
    Submitted, Target,
};
use nixci_protocol::nixci::outcome::{Outcome, Success};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::common::{ask, body_for, connect, submission, submit, try_ask, watch};
use crate::world::{World, answer, index, outcome, settled};

fn sha(digit: char) -> String {
    digit.to_string().repeat(40)
}

/// `pull_request` of number 5 in a repository; seconds count from a whole minute.
fn pull(repository: (&str, u64), action: &str, head: char, before: Option<char>, second: u32) -> Value {
    let side = |sha: String, name: &str| json!({"sha": sha, "ref": name, "repo": {"id": repository.1}});
    json!({
        "action": action,
        "number": 5,
        "before": before.map(sha),
        "pull_request": {
            "number": 5,
            "state": if action == "closed" { "closed" } else { "open" },
            "updated_at": format!("2026-01-01T00:00:{second:02}Z"),
            "head": side(sha(head), "topic"),
            "base": side(sha('0'), "main"),
        },
        "repository": {"id": repository.1, "full_name": repository.0},
    })
}

const HERE: (&str, u64) = ("o/n", 3);

fn head(world: &World) -> (String, bool) {
    index(&world.state())
        .query_row(
            "SELECT head, is_open FROM pull_request WHERE forge = 'github' AND repository = 'o/n' AND number = 5",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap()
}

async fn states(world: &World, evaluations: &[EvaluationId]) -> Vec<EvaluationState> {
    let mut states = Vec::new();
    for evaluation in evaluations {
        states.push(world.state_of(*evaluation).await);
    }
    states
}

const OPEN: EvaluationState = EvaluationState::Receiving;
const CANCELLED: EvaluationState = EvaluationState::Cancelled;

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_moved_cancels_what_was_of_the_one_before_it_and_nothing_else() {
    let world = World::start().await;
    let evaluations = [
        world.evaluation("o/n", &sha('a'), Some(5)).await,
        world.evaluation("o/n", &sha('b'), Some(5)).await,
        world.evaluation("o/n", &sha('a'), Some(6)).await,
        world.evaluation("o/n", &sha('a'), None).await,
        world.evaluation("o/other", &sha('a'), Some(5)).await,
        world.evaluation("gitea/n", &sha('a'), Some(5)).await,
    ];
    world
        .told("pull_request", "1", &pull(HERE, "opened", 'a', None, 1))
        .await;
    assert_eq!(states(&world, &evaluations).await, [OPEN; 6], "it is as it was");
    world
        .told("pull_request", "2", &pull(HERE, "synchronize", 'b', Some('a'), 2))
        .await;
    assert_eq!(head(&world), (sha('b'), true));
    assert_eq!(
        states(&world, &evaluations).await,
        [CANCELLED, OPEN, OPEN, OPEN, OPEN, OPEN]
    );
    // Somebody runs the old one again; a label is no reason to stop that.
    let again = world.evaluation("o/n", &sha('9'), Some(5)).await;
    world
        .told("pull_request", "3", &pull(HERE, "labeled", 'b', None, 3))
        .await;
    assert_eq!(world.state_of(again).await, OPEN);

    world
        .told("pull_request", "4", &pull(HERE, "closed", 'b', None, 4))
        .await;
    assert_eq!(head(&world), (sha('b'), false));
    assert_eq!(world.state_of(again).await, CANCELLED);
    assert_eq!(
        states(&world, &evaluations).await,
        [CANCELLED, CANCELLED, OPEN, OPEN, OPEN, OPEN]
    );
    world
        .told("pull_request", "5", &pull(HERE, "reopened", 'b', None, 5))
        .await;
    assert_eq!(head(&world), (sha('b'), true));
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_out_of_order_do_not_bring_an_old_head_back() {
    let world = World::start().await;
    let newest = world.evaluation("o/n", &sha('c'), Some(5)).await;
    let told = async |number: &str, body: &Value| world.told("pull_request", number, body).await.0;
    // The second push overtakes the first, which overtakes the opening.
    assert_eq!(
        told("3", &pull(HERE, "synchronize", 'c', Some('b'), 3)).await,
        "handled"
    );
    assert_eq!(
        told("2", &pull(HERE, "synchronize", 'b', Some('a'), 2)).await,
        "ignored"
    );
    assert_eq!(told("1", &pull(HERE, "opened", 'a', None, 1)).await, "ignored");
    assert_eq!(head(&world), (sha('c'), true));
    assert_eq!(world.state_of(newest).await, OPEN);
    // All in one second: the chain of heads tells.
    assert_eq!(
        told("5", &pull(HERE, "synchronize", 'e', Some('d'), 9)).await,
        "handled"
    );
    assert_eq!(
        told("4", &pull(HERE, "synchronize", 'd', Some('c'), 9)).await,
        "ignored"
    );
    assert_eq!(told("6", &pull(HERE, "opened", 'd', None, 9)).await, "ignored");
    assert_eq!(
        told("7", &pull(HERE, "synchronize", 'f', Some('e'), 9)).await,
        "handled"
    );
    assert_eq!(head(&world), (sha('f'), true));
    // Gitea does not count pushes as changes, and does not tell the head before.
    assert_eq!(told("8", &pull(HERE, "synchronized", '1', None, 9)).await, "handled");
    assert_eq!(head(&world), (sha('1'), true));
    assert_eq!(told("9", &pull(HERE, "closed", '1', None, 12)).await, "handled");
    assert_eq!(told("10", &pull(HERE, "edited", '1', None, 11)).await, "ignored");
    assert_eq!(head(&world), (sha('1'), false));
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_for_another_repository_touches_nothing_here() {
    let world = World::start().await;
    let by_number = world.evaluation("o/by-number", &sha('a'), Some(5)).await;
    let by_name = world.evaluation("o/n", &sha('a'), Some(5)).await;
    let closed = |name, id| pull((name, id), "closed", 'a', None, 1);
    // A name that was given away, another repository, and another forge that has one of the same name.
    world.told("pull_request", "1", &closed("o/by-number", 41)).await;
    world.told("pull_request", "2", &closed("evil/n", 3)).await;
    let body = closed("o/n", 3).to_string();
    let signature = crate::world::hex(body.as_bytes());
    let headers = [
        ("x-gitea-event", "pull_request"),
        ("x-gitea-delivery", "3"),
        ("x-gitea-signature", signature.as_str()),
    ];
    let (status, text) = answer(world.hooks.plain("gitea", &headers, body)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    settled(&world.state());
    assert_eq!(outcome(&world.state(), "3").0, "handled");
    assert_eq!(states(&world, &[by_number, by_name]).await, [OPEN, OPEN]);
    // Names are the same whatever their case, as on the forge.
    world.told("pull_request", "4", &closed("O/By-Number", 42)).await;
    world.told("pull_request", "5", &closed("O/N", 3)).await;
    assert_eq!(states(&world, &[by_number, by_name]).await, [CANCELLED, CANCELLED]);
    world.daemon.stop().await;
}

/// A submission for pull request 5 of `o/n`.
fn of_five(key: &str, commit: char) -> Submission {
    Submission {
        project: "o/n".to_owned(),
        commit: Some(sha(commit)),
        pull_request: Some(5),
        ..submission(key)
    }
}

async fn begun(world: &World, submission: Submission) -> EvaluationId {
    let begun: Begun = ask(
        &mut connect(&world.daemon.socket).await,
        &Request::SubmitBegin(submission),
    )
    .await;
    begun.evaluation
}

fn labels(world: &World, evaluation: EvaluationId) -> String {
    index(&world.state())
        .query_row("SELECT labels FROM evaluation WHERE id = ?1", [evaluation.0], |row| {
            row.get(0)
        })
        .unwrap()
}

fn again(mut submission: Submission) -> Submission {
    submission.labels.insert("again".to_owned(), "attempt 2".to_owned());
    submission
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_the_news_is_cancelled_as_what_came_before_it() {
    let world = World::start().await;
    let told = async |number: &str, body: &Value| world.told("pull_request", number, body).await.0;
    told("1", &pull(HERE, "synchronize", 'b', Some('a'), 2)).await;
    // What is older, and told later, is a head that was left too.
    told("2", &pull(HERE, "synchronize", 'a', Some('9'), 1)).await;
    let state = async |key: &str, commit: char| world.state_of(begun(&world, of_five(key, commit)).await).await;
    assert_eq!(state("the head", 'b').await, OPEN);
    assert_eq!(state("the one before", 'a').await, CANCELLED);
    assert_eq!(state("and before that", '9').await, CANCELLED);
    assert_eq!(state("nobody told of it yet", 'c').await, OPEN);

    let late = begun(&world, of_five("with jobs", 'a')).await;
    let mut client = connect(&world.daemon.socket).await;
    let jobs = Request::SubmitJobs {
        evaluation: late,
        jobs: Vec::new(),
    };
    let refused = try_ask::<Value>(&mut client, &jobs).await.unwrap_err().to_string();
    let why = format!("the head of pull request 5 is {} now", sha('b'));
    assert!(refused.contains(&why) && refused.contains("--again"), "{refused}");
    // Somebody has run the job again.
    let wanted = begun(&world, again(of_five("run again", 'a'))).await;
    assert_eq!(world.state_of(wanted).await, OPEN);
    // The key finds what it found, whatever is told since.
    let resumed: Begun = ask(&mut client, &Request::SubmitBegin(of_five("the head", 'b'))).await;
    assert!(resumed.resumed);

    told("3", &pull(HERE, "closed", 'b', None, 3)).await;
    assert_eq!(state("closed", 'b').await, CANCELLED);
    assert_eq!(state("closed, and new", 'd').await, CANCELLED);
    assert_eq!(
        world
            .state_of(begun(&world, again(of_five("closed, again", 'b'))).await)
            .await,
        OPEN
    );
    // Others have such a number too.
    let elsewhere = world.evaluation("o/other", &sha('b'), Some(5)).await;
    assert_eq!(world.state_of(elsewhere).await, OPEN);
    assert_eq!(told("4", &pull(HERE, "reopened", 'b', None, 4)).await, "handled");
    assert_eq!(told("5", &pull(HERE, "closed", 'b', None, 2)).await, "ignored");
    assert_eq!(state("reopened", 'b').await, OPEN);
    assert_eq!(state("reopened, and old", 'a').await, CANCELLED);
    // The branch is set back.
    told("6", &pull(HERE, "synchronize", 'a', Some('b'), 6)).await;
    assert_eq!(state("set back", 'a').await, OPEN);
    assert_eq!(state("left by that", 'b').await, CANCELLED);
    // A repository that had the name before says nothing of this one.
    let closed = pull(("o/by-number", 41), "closed", 'a', None, 1);
    told("7", &closed).await;
    let by_number = world.evaluation("o/by-number", &sha('a'), Some(5)).await;
    assert_eq!(world.state_of(by_number).await, OPEN);
    world.daemon.stop().await;
}

const BUILT: Outcome = Outcome::Succeeded { how: Success::Built };

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_late_keeps_its_jobs_and_can_be_restarted() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let world = World::with(&store.uri(), |_| {}).await;
    world
        .told("pull_request", "1", &pull(HERE, "closed", 'a', None, 1))
        .await;
    let gate = store.gate("late");
    let drvs = store.instantiate("late", &[TestDrv::good("shared").gate("late"), TestDrv::good("own")]);
    let mut client = connect(&world.daemon.socket).await;
    // Somebody else wants one of both.
    let shared = drvs.clone().into_iter().filter(|(name, _)| name == "shared").collect();
    let other = submit(&mut client, &store, "other", &shared).await;
    gate.started().await;
    let body = body_for(&store, drvs.values()).await;
    client.call_framed(&AddClosure {}, &body[..], &mut ()).await.unwrap();
    let whole = Request::Submit {
        submission: of_five("late", 'a'),
        jobs: drvs
            .iter()
            .map(|(attr, drv)| NewJob {
                attr: attr.parse().unwrap(),
                result: Evaluated::Drv(drv.clone()),
            })
            .collect(),
        error: None,
    };
    let late: Submitted = ask(&mut client, &whole).await;
    let evaluation = late.summary.evaluation;
    assert_eq!(late.summary.state, CANCELLED);
    assert_eq!((late.summary.counts.jobs, late.summary.counts.cancelled), (2, 2));
    assert!(labels(&world, evaluation).contains("pull request 5 is closed"));
    let same: Submitted = ask(&mut client, &whole).await;
    assert!(same.resumed && same.summary.evaluation == evaluation);
    gate.open();
    assert_eq!(watch(&mut client, other).await.outcomes["shared"], BUILT);

    let what = Target::Evaluation(Selector::Evaluation(evaluation));
    let changed: Changed = ask(&mut client, &Request::Restart { what }).await;
    assert_eq!(changed.builds, 1, "the other one was built meanwhile");
    assert_eq!(watch(&mut client, evaluation).await.outcomes["own"], BUILT);
    let which = Selector::Evaluation(evaluation);
    let summary: EvaluationSummary = ask(&mut client, &Request::Status { which }).await;
    assert_eq!(summary.state, EvaluationState::Done);
    assert_eq!(labels(&world, evaluation), "{}");
    world.daemon.stop().await;
}
