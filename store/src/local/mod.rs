//! The store that a client reads from: the local one as Nix finds it, or another on this machine.
//!
//! Derivations are read from disk, since their bytes say all there is to know of them; a connection is opened only when
//! something else is asked for. NARs are made from the files on disk.

mod read;

use std::path::{Path, PathBuf};

use nixci_protocol::op::QueryPathInfo;
use nixci_protocol::types::{DrvPath, PathInfo, StoreDir, StoreDirError, StorePath};

use crate::remote::{BuildOptions, Environment, Layout, Remote, RemoteOptions, StoreUri, StoreUriError};
use crate::upload::{NarReader, Object, ObjectSource, SourceError};

/// A store on this machine, to be read. Clones share its connection.
#[derive(Debug, Clone)]
pub struct LocalStore {
    dir: StoreDir,
    physical: PathBuf,
    remote: Remote,
}

/// Why there is no local store to read from.
#[derive(Debug, thiserror::Error)]
pub enum LocalStoreError {
    /// `--from` makes no sense.
    #[error(transparent)]
    Uri(#[from] StoreUriError),
    /// `NIX_REMOTE` makes no sense.
    #[error("NIX_REMOTE: {0}")]
    NixRemote(#[source] StoreUriError),
    /// It is on another machine, whose files cannot be read.
    #[error("{0} is not on this machine: objects are read from disk; run the command there, or copy them here first")]
    Elsewhere(Box<StoreUri>),
    /// The store directory makes no sense.
    #[error(transparent)]
    StoreDir(#[from] StoreDirError),
}

impl LocalStore {
    /// Opens the store at `from` (`local?root=…`, `unix://…`), or the one that Nix would use here: `NIX_REMOTE`,
    /// `NIX_STORE_DIR` and their like are heeded. Nothing is read yet, and nothing is connected to.
    pub fn open(from: Option<&str>) -> Result<Self, LocalStoreError> {
        Self::open_in(from, Environment::of_process())
    }

    /// Like [`open`](Self::open), with the variables given.
    pub fn open_in(from: Option<&str>, environment: Environment) -> Result<Self, LocalStoreError> {
        let mut uri: StoreUri = from.unwrap_or("auto").parse()?;
        if uri == StoreUri::Auto
            && let Some(text) = environment.text("NIX_REMOTE")
        {
            uri = text.parse().map_err(LocalStoreError::NixRemote)?;
        }
        let layout = match &uri {
            StoreUri::Auto => own_layout(&environment),
            StoreUri::Unix { layout, .. } | StoreUri::Local { layout, .. } => layout.clone(),
            StoreUri::Ssh(_) => return Err(LocalStoreError::Elsewhere(Box::new(uri))),
        };
        let dir = match (&layout.store, environment.text("NIX_STORE_DIR")) {
            (Some(dir), _) => StoreDir::new(&dir.to_string_lossy())?,
            (None, Some(dir)) => StoreDir::new(dir)?,
            (None, None) => StoreDir::default(),
        };
        let options = RemoteOptions {
            max_connections: 1,
            store_dir: dir.clone(),
            build: BuildOptions::default(),
            environment,
            ..RemoteOptions::default()
        };
        let physical = layout.physical(dir.as_str());
        Ok(Self {
            dir,
            physical,
            remote: Remote::new("local", uri, options),
        })
    }

    /// The store directory, as it is written in paths.
    #[must_use]
    pub fn store_dir(&self) -> &StoreDir {
        &self.dir
    }

    /// The folder where its objects are.
    #[must_use]
    pub fn physical_dir(&self) -> &Path {
        &self.physical
    }

    /// The file of a path.
    #[must_use]
    pub fn file(&self, path: &StorePath) -> PathBuf {
        self.physical.join(path.base_name())
    }

    /// The connection to the daemon of the store, or a private one: for what is not in its files.
    #[must_use]
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// What the store itself knows of paths that are no derivations, in their order.
    async fn ask(&self, paths: Vec<StorePath>) -> Result<Vec<PathInfo>, SourceError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let place = || self.remote.uri().to_string();
        let requests: Vec<_> = paths.iter().map(|path| QueryPathInfo { path: path.clone() }).collect();
        let mut connection = self.remote.acquire().await?;
        let replies = connection.call_all(&requests, &mut ()).await;
        let replies = replies.map_err(|error| SourceError::Ask { place: place(), error })?;
        (paths.into_iter().zip(replies))
            .map(|(path, reply)| match reply {
                Some(info) => Ok(PathInfo { path, info }),
                None => Err(SourceError::Missing { path, place: place() }),
            })
            .collect()
    }
}

/// Where Nix puts a store for a user who has none: a chroot store in the home.
fn own_layout(environment: &Environment) -> Layout {
    let plain = Layout::default();
    let default = StoreDir::default();
    if environment.get("NIX_STORE_DIR").is_some() || Path::new(default.as_str()).exists() {
        return plain;
    }
    let data = environment
        .get("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| environment.get("HOME").map(|home| Path::new(home).join(".local/share")));
    let own = data.map(|data| Layout {
        root: Some(data.join("nix/root")),
        ..Layout::default()
    });
    own.filter(|own| own.physical(default.as_str()).exists())
        .unwrap_or(plain)
}

impl ObjectSource for LocalStore {
    async fn references(&self, paths: &[StorePath]) -> Result<Vec<Vec<StorePath>>, SourceError> {
        let (drvs, others) = split(paths);
        let (read, asked) = tokio::try_join!(read::references(self, drvs), self.ask(others))?;
        let asked = asked.into_iter().map(|info| info.info.references.into_iter().collect());
        Ok(rejoin(paths, read, asked))
    }

    async fn objects(&self, paths: &[StorePath]) -> Result<Vec<Object>, SourceError> {
        let (drvs, others) = split(paths);
        let asked = async { read::small(self, self.ask(others).await?).await };
        let (read, asked) = tokio::try_join!(read::derivations(self, drvs), asked)?;
        Ok(rejoin(paths, read, asked))
    }

    async fn nar(&self, path: &StorePath) -> Result<NarReader, SourceError> {
        Ok(Box::new(read::nar(self, path)))
    }
}

/// What was found about both halves of a [`split`], in the order of the paths again.
fn rejoin<T>(paths: &[StorePath], drvs: impl IntoIterator<Item = T>, others: impl IntoIterator<Item = T>) -> Vec<T> {
    let (mut drvs, mut others) = (drvs.into_iter(), others.into_iter());
    let found = |path: &StorePath| {
        if path.is_derivation() {
            drvs.next()
        } else {
            others.next()
        }
    };
    paths.iter().filter_map(found).collect()
}

fn split(paths: &[StorePath]) -> (Vec<DrvPath>, Vec<StorePath>) {
    let mut others = Vec::new();
    let mut drvs = Vec::with_capacity(paths.len());
    for path in paths.iter().cloned() {
        match DrvPath::try_from(path.clone()) {
            Ok(drv) => drvs.push(drv),
            Err(_) => others.push(path),
        }
    }
    (drvs, others)
}
