//! What a build would do, told from the spool, the index and one question to the stores about all outputs.
//!
//! Nothing is uploaded for it. The walk is that of Nix: down from what is asked for, past everything that is valid or
//! can be substituted, level by level so that a store is asked once per level at most.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use nixci_protocol::op::{self, Missing, Reply, SubstitutablePaths};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::{DerivedPath, DrvPath, OutputsSpec, SingleDerivedPath, StorePath, SubstitutablePathInfo};
use nixci_store::derivation::Recipe;
use nixci_store::index::{self, derivations};

use super::session::{Session, refuse};
use crate::adopt;

/// Derivations that are read at once.
const RECIPES_AT_ONCE: usize = 512;

/// Outputs of a derivation by name.
type Outputs = BTreeMap<String, StorePath>;

/// Something that shall be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Want {
    Path(StorePath),
    Outputs(StorePath, OutputsOf),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum OutputsOf {
    All,
    Named(BTreeSet<String>),
}

impl OutputsOf {
    fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// Why the store has to be asked with the derivations in its hands: outputs whose paths depend on what is built, or a
/// derivation that only the store has.
struct OnlyTheStoreKnows;

/// Answers for a spool; none where only the store can tell, once it has the derivations.
pub(super) async fn from_spool(
    session: &mut Session,
    request: &op::QueryMissing,
    exchange: &mut Exchange<'_>,
) -> Result<Option<Reply>, HandlerError> {
    let mut wants = Vec::with_capacity(request.paths.len());
    for path in &request.paths {
        wants.push(match path {
            DerivedPath::Opaque(path) => Want::Path(path.clone()),
            DerivedPath::Built {
                drv: SingleDerivedPath::Opaque(drv),
                outputs,
            } => Want::Outputs(
                drv.clone(),
                match outputs {
                    OutputsSpec::All => OutputsOf::All,
                    OutputsSpec::Names(names) => {
                        OutputsOf::Named(names.iter().map(|name| name.as_str().to_owned()).collect())
                    }
                },
            ),
            DerivedPath::Built {
                drv: SingleDerivedPath::Built { .. },
                ..
            } => return Ok(None),
        });
    }
    let mut walk = Walk {
        session,
        missing: Missing::default(),
        done: HashSet::new(),
        outputs: HashMap::new(),
        valid: HashSet::new(),
        asked: HashSet::new(),
    };
    while !wants.is_empty() {
        match walk.level(wants, exchange).await? {
            Ok(next) => wants = next,
            Err(OnlyTheStoreKnows) => return Ok(None),
        }
    }
    Ok(Some(Reply::Missing(walk.missing)))
}

struct Walk<'s> {
    session: &'s mut Session,
    missing: Missing,
    done: HashSet<Want>,
    /// Of derivations that the index knows.
    outputs: HashMap<StorePath, Outputs>,
    valid: HashSet<StorePath>,
    asked: HashSet<StorePath>,
}

/// A derivation some of whose outputs are not there, and what to ask substituters for.
struct Lacking {
    drv: StorePath,
    outputs: Vec<StorePath>,
    recipe: Recipe,
}

impl Walk<'_> {
    /// Looks at one level and returns the next.
    async fn level(
        &mut self,
        mut wants: Vec<Want>,
        exchange: &mut Exchange<'_>,
    ) -> Result<Result<Vec<Want>, OnlyTheStoreKnows>, HandlerError> {
        wants.retain(|want| self.done.insert(want.clone()));
        let (mut paths, mut drvs) = (Vec::new(), Vec::new());
        for want in wants {
            match want {
                Want::Path(path) => paths.push(path),
                Want::Outputs(drv, outputs) => drvs.push((drv, outputs)),
            }
        }
        self.ask(paths.iter().chain(drvs.iter().map(|(drv, _)| drv)).cloned().collect())
            .await?;
        paths.retain(|path| !self.valid.contains(path));
        let unknown: Vec<_> = drvs
            .extract_if(.., |(drv, _)| !self.valid.contains(drv))
            .map(|(drv, _)| drv)
            .collect();
        self.missing.unknown.extend(unknown);
        if self
            .know(drvs.iter().map(|(drv, _)| drv.clone()).collect())
            .await?
            .is_err()
        {
            return Ok(Err(OnlyTheStoreKnows));
        }
        self.ask_outputs(&drvs).await?;
        let lacking: Vec<(StorePath, Vec<StorePath>)> = drvs
            .into_iter()
            .map(|(drv, wanted)| {
                let outputs = self.outputs.get(&drv).into_iter().flatten();
                let invalid = outputs.filter(|(name, path)| wanted.contains(name) && !self.valid.contains(*path));
                let invalid = invalid.map(|(_, path)| path.clone()).collect();
                (drv, invalid)
            })
            .filter(|(_, invalid): &(_, Vec<_>)| !invalid.is_empty())
            .collect();
        let Ok(lacking) = self.read(lacking).await? else {
            return Ok(Err(OnlyTheStoreKnows));
        };
        let outputs = lacking
            .iter()
            .filter(|drv| drv.recipe.may_be_substituted)
            .flat_map(|drv| drv.outputs.iter());
        let question: BTreeMap<_, _> = paths.iter().chain(outputs).map(|path| (path.clone(), None)).collect();
        let offers = self.offers(question, exchange).await?;
        let mut next = Vec::new();
        for path in paths {
            match offers.get(&path) {
                Some(offer) => {
                    self.missing.download_size = self.missing.download_size.saturating_add(offer.download_size);
                    self.missing.nar_size = self.missing.nar_size.saturating_add(offer.nar_size);
                    next.extend(offer.references.iter().cloned().map(Want::Path));
                    self.missing.will_substitute.insert(path);
                }
                None => drop(self.missing.unknown.insert(path)),
            }
        }
        for drv in lacking {
            if drv.recipe.may_be_substituted && drv.outputs.iter().all(|output| offers.contains_key(output)) {
                next.extend(drv.outputs.into_iter().map(Want::Path));
                continue;
            }
            if drv.recipe.has_dynamic_inputs {
                return Ok(Err(OnlyTheStoreKnows));
            }
            self.missing.will_build.insert(drv.drv);
            let inputs = drv.recipe.inputs.into_iter();
            next.extend(inputs.map(|(input, names)| Want::Outputs(input, OutputsOf::Named(names))));
        }
        Ok(Ok(next))
    }

    /// Asks which of these are valid, as far as that was not asked yet.
    async fn ask(&mut self, mut paths: BTreeSet<StorePath>) -> Result<(), HandlerError> {
        paths.retain(|path| self.asked.insert(path.clone()));
        if !paths.is_empty() {
            let valid = self.session.ci.core.objects.valid(paths).await;
            self.valid.extend(valid.map_err(|error| refuse(&error))?);
        }
        Ok(())
    }

    /// Looks up the outputs of derivations in the index, which gets those that are only in the spool.
    async fn know(&mut self, mut drvs: Vec<StorePath>) -> Result<Result<(), OnlyTheStoreKnows>, HandlerError> {
        drvs.retain(|drv| !self.outputs.contains_key(drv));
        if drvs.is_empty() {
            return Ok(Ok(()));
        }
        let core = self.session.ci.core.clone();
        adopt::adopt(&core, drvs.clone())
            .await
            .map_err(|error| refuse(&error))?;
        let found = core.index.read(move |conn| outputs(conn, drvs)).await;
        for (drv, outputs) in found.map_err(|error| refuse(&error))? {
            match outputs {
                Some(outputs) => self.outputs.insert(drv, outputs),
                None => return Ok(Err(OnlyTheStoreKnows)),
            };
        }
        Ok(Ok(()))
    }

    /// Asks about the outputs of this level, and where some are missing at once about those of everything below.
    async fn ask_outputs(&mut self, drvs: &[(StorePath, OutputsOf)]) -> Result<(), HandlerError> {
        let of = |drv: &StorePath| {
            self.outputs
                .get(drv)
                .into_iter()
                .flatten()
                .map(|(_, path)| path.clone())
        };
        let paths = drvs.iter().flat_map(|(drv, _)| of(drv)).collect();
        self.ask(paths).await?;
        let lacking = |(drv, _): &&(StorePath, OutputsOf)| {
            let outputs = self.outputs.get(drv);
            outputs.is_some_and(|outputs| outputs.values().any(|path| !self.valid.contains(path)))
        };
        let lacking: Vec<_> = drvs.iter().filter(lacking).map(|(drv, _)| drv.clone()).collect();
        // Below what was looked at from above everything was asked about.
        let first_time = self.missing.will_build.is_empty() && self.missing.will_substitute.is_empty();
        if lacking.is_empty() || !first_time {
            return Ok(());
        }
        let index = &self.session.ci.core.index;
        let below = index.read(move |conn| {
            let ids: Vec<_> = derivations::ids(conn, &lacking)?.into_iter().flatten().collect();
            let closure = derivations::closure(conn, &ids)?;
            let drvs = derivations::paths(conn, &closure)?;
            outputs(conn, drvs)
        });
        let mut paths = BTreeSet::new();
        for (drv, outputs) in below.await.map_err(|error| refuse(&error))? {
            paths.insert(drv.clone());
            if let Some(outputs) = outputs {
                paths.extend(outputs.values().cloned());
                self.outputs.insert(drv, outputs);
            }
        }
        self.ask(paths).await
    }

    /// Reads the derivations of which something is missing.
    async fn read(
        &mut self,
        lacking: Vec<(StorePath, Vec<StorePath>)>,
    ) -> Result<Result<Vec<Lacking>, OnlyTheStoreKnows>, HandlerError> {
        let core = self.session.ci.core.clone();
        let mut read = Vec::with_capacity(lacking.len());
        for some in lacking.chunks(RECIPES_AT_ONCE) {
            let files = core
                .spool
                .files(some.iter().map(|(drv, _)| drv.clone()).collect())
                .await;
            let files = files.map_err(|error| refuse(&error))?;
            let some = some.to_vec();
            let dir = core.config.store_dir.clone();
            let parsing = tokio::task::spawn_blocking(move || {
                let parse = |((drv, outputs), file): ((StorePath, Vec<StorePath>), Option<bytes::Bytes>)| {
                    let (Ok(path), Some(file)) = (DrvPath::try_from(drv.clone()), file) else {
                        return Ok(None);
                    };
                    let recipe = Recipe::parse(&path, &dir, &file)?;
                    Ok(Some(Lacking { drv, outputs, recipe }))
                };
                some.into_iter().zip(files).map(parse).collect::<Result<Vec<_>, _>>()
            });
            let parsed = match parsing.await {
                Ok(parsed) => parsed.map_err(|error: nixci_store::derivation::DerivationError| refuse(&error))?,
                Err(error) => return Err(refuse(&error)),
            };
            for drv in parsed {
                match drv {
                    Some(drv) => read.push(drv),
                    None => return Ok(Err(OnlyTheStoreKnows)),
                }
            }
        }
        Ok(Ok(read))
    }

    /// What the store's substituters have of these, by the settings of this client.
    async fn offers(
        &mut self,
        paths: BTreeMap<StorePath, Option<nixci_protocol::types::ContentAddress>>,
        exchange: &mut Exchange<'_>,
    ) -> Result<HashMap<StorePath, SubstitutablePathInfo>, HandlerError> {
        if paths.is_empty() {
            return Ok(HashMap::new());
        }
        let question = op::QuerySubstitutablePathInfos {
            paths: SubstitutablePaths(paths),
        };
        let offers = self.session.upstream.call(&question, exchange).await?;
        Ok(offers.into_iter().collect())
    }
}

/// The outputs of derivations; none of one that the index does not know, or some of whose outputs have no path before
/// they are built.
fn outputs(conn: &rusqlite::Connection, drvs: Vec<StorePath>) -> index::Result<Vec<(StorePath, Option<Outputs>)>> {
    let ids = derivations::ids(conn, &drvs)?;
    let mut found = Vec::with_capacity(drvs.len());
    for (drv, id) in drvs.into_iter().zip(ids) {
        let rows = match id {
            Some(id) => derivations::outputs(conn, id)?,
            None => Vec::new(),
        };
        let known = !rows.is_empty();
        let outputs: Option<Outputs> = rows.into_iter().map(|row| Some((row.name, row.path?))).collect();
        found.push((drv, outputs.filter(|_| known)));
    }
    Ok(found)
}
