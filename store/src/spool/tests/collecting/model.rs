//! Random scripts beside a model that remembers everything.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    /// A new object that refers to some of those that are there.
    Add {
        references: Vec<prop::sample::Index>,
    },
    /// An object that was there once.
    AddAgain(prop::sample::Index),
    Open,
    /// A lease asks for an object.
    Ask {
        lease: prop::sample::Index,
        of: prop::sample::Index,
    },
    Drop(prop::sample::Index),
    Collect {
        roots: Vec<prop::sample::Index>,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => prop::collection::vec(index(), 0..4).prop_map(|references| Act::Add { references }),
        2 => index().prop_map(Act::AddAgain),
        2 => Just(Act::Open),
        4 => (index(), index()).prop_map(|(lease, of)| Act::Ask { lease, of }),
        1 => index().prop_map(Act::Drop),
        3 => prop::collection::vec(index(), 0..3).prop_map(|roots| Act::Collect { roots }),
    ]
}

/// Every object there ever was, and the periods in which it was asked for; periods are not forgotten here.
#[derive(Default)]
struct Model {
    objects: Vec<(PathInfo, Bytes)>,
    references: Vec<Vec<usize>>,
    valid: BTreeMap<usize, BTreeSet<u32>>,
    leases: Vec<(Lease, BTreeSet<u32>)>,
    period: u32,
}

impl Model {
    fn closure(&self, roots: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
        let mut closure = BTreeSet::new();
        let mut next: Vec<usize> = roots.into_iter().collect();
        while let Some(of) = next.pop() {
            if closure.insert(of) {
                next.extend(&self.references[of]);
            }
        }
        closure
    }

    fn touch(&mut self, of: usize) {
        if let Some(periods) = self.valid.get_mut(&of) {
            periods.insert(self.period);
        }
    }

    fn pick(&self, index: prop::sample::Index) -> Option<usize> {
        let valid: Vec<usize> = self.valid.keys().copied().collect();
        (!valid.is_empty()).then(|| *index.get(&valid))
    }

    async fn add(&mut self, spool: &Spool, of: usize) {
        if !self.references[of].iter().all(|of| self.valid.contains_key(of)) {
            assert!(spool.add(vec![proven(self.objects[of].clone())]).await.is_err());
            return;
        }
        spool.add(vec![proven(self.objects[of].clone())]).await.unwrap();
        self.valid.entry(of).or_default();
        self.touch(of);
        for reference in self.references[of].clone() {
            self.touch(reference);
        }
    }

    async fn act(&mut self, spool: &Spool, act: &Act) {
        match act {
            Act::Add { references } => {
                let references: BTreeSet<usize> = references.iter().filter_map(|index| self.pick(*index)).collect();
                let paths: Vec<&StorePath> = references.iter().map(|of| &self.objects[*of].0.path).collect();
                let number = self.objects.len();
                let object = text(&format!("o{number}"), &number.to_le_bytes(), &paths);
                self.objects.push(object);
                self.references.push(references.into_iter().collect());
                self.add(spool, number).await;
            }
            Act::AddAgain(index) if !self.objects.is_empty() => self.add(spool, index.index(self.objects.len())).await,
            Act::Open => self.leases.push((spool.lease(), BTreeSet::new())),
            Act::Ask { lease, of } if !self.leases.is_empty() && !self.objects.is_empty() => {
                let (nth, of) = (lease.index(self.leases.len()), of.index(self.objects.len()));
                let (lease, used) = &mut self.leases[nth];
                used.insert(self.period);
                let _busy = lease.busy();
                let answer = spool.contains(&self.objects[of].0.path);
                assert_eq!(answer, self.valid.contains_key(&of));
                self.touch(of);
            }
            Act::Drop(lease) if !self.leases.is_empty() => drop(self.leases.remove(lease.index(self.leases.len()))),
            Act::AddAgain(_) | Act::Ask { .. } | Act::Drop(_) => {}
            Act::Collect { roots } => {
                let roots: Vec<usize> = roots.iter().filter_map(|index| self.pick(*index)).collect();
                let count: BTreeSet<u32> = self.leases.iter().flat_map(|(_, used)| used).copied().collect();
                let leased = self.valid.iter().filter(|(_, periods)| !periods.is_disjoint(&count));
                let kept = self.closure(leased.map(|(of, _)| *of).chain(roots.iter().copied()));
                let expected: BTreeSet<String> = kept.iter().map(|of| format!("o{of}")).collect();
                self.valid.retain(|of, _| kept.contains(of));
                self.period += 1;
                let roots: Vec<&StorePath> = roots.iter().map(|of| &self.objects[*of].0.path).collect();
                collect(spool, &roots).await;
                assert_eq!(listed(spool).await, expected);
                assert_whole(spool).await;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Scripts have fewer collections than there are periods, so that the model is exact.
    #[test]
    fn exactly_what_nobody_needs_goes(acts in prop::collection::vec(act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (spool, folder) = spool();
            let mut model = Model::default();
            for act in &acts {
                if model.period >= 14 && matches!(act, Act::Collect { .. }) {
                    continue;
                }
                model.act(&spool, act).await;
            }
            spool.close().await;
            let spool = open(folder.path());
            let expected: BTreeSet<String> = model.valid.keys().map(|of| format!("o{of}")).collect();
            assert_eq!(listed(&spool).await, expected);
            assert_whole(&spool).await;
        });
    }
}
