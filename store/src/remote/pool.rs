//! Connections to one store: bounded, handed out in the order of asking, and never used again once in doubt.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::io::Company;
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{Fault, Unreachable};
use super::said::Said;
use super::ssh::{self, SshFiles};
use super::transport::{self, Transport, Watch};
use super::{BuildOptions, RemoteOptions, StoreUri};

/// A store and the connections to it. Clones share them.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    name: String,
    uri: StoreUri,
    options: RemoteOptions,
    // Held for a copy.
    build: Mutex<Build>,
    /// Whether the URI says how many connections there are.
    is_counted: bool,
    max_connections: AtomicUsize,
    slots: Arc<Semaphore>,
    // Held for a push or a pop, never across an await. The last used is taken first, so that the others can age.
    idle: Mutex<Vec<Link>>,
    ssh: SshFiles,
    company: Company,
}

/// Settings of connections, and since when they hold.
struct Build {
    options: BuildOptions,
    since: Instant,
}

impl Inner {
    fn build(&self) -> MutexGuard<'_, Build> {
        self.build.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has other settings than it would have now, or has been open for too long.
    fn is_too_old(&self, link: &Link) -> bool {
        link.opened < self.build().since || self.options.max_age.is_some_and(|max| link.age() > max)
    }

    fn keep(&self, link: Link) {
        if !link.connection.is_reusable() || self.is_too_old(&link) {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_connections.load(Ordering::Relaxed) {
            idle.push(link);
        }
    }
}

/// How long a store may take to let a connection go.
const GOODBYE: Duration = Duration::from_secs(5);

/// A connection of its own, not counted by the pool. Dropping it hangs up, and kills the program behind it if it is one.
pub struct Link {
    connection: Connection,
    watch: Watch,
    said: Option<Said>,
    opened: Instant,
}

impl Link {
    /// How long it has been open.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Hangs up and waits until the store has noticed, so that temporary roots of the connection are none any more.
    /// A store that does not answer is not waited for longer than a few seconds.
    pub async fn end(self) {
        // What the goodbye comes to does not matter: the connection is gone afterwards.
        drop(tokio::time::timeout(GOODBYE, self.connection.close_and_wait()).await);
    }

    /// The last lines that the program behind the connection (ssh, a private daemon) printed as errors; empty for a
    /// socket. For error messages.
    #[must_use]
    pub fn last_errors(&self) -> String {
        self.said.as_ref().map(Said::last_lines).unwrap_or_default()
    }

    /// Whether it may be used: nothing is under way, and the other side is there and silent.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.connection.is_reusable() && self.watch.is_quiet()
    }
}

impl Deref for Link {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Link {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.connection, f)
    }
}

impl Remote {
    /// A store by this name in messages. Connects only when asked to.
    #[must_use]
    pub fn new(name: &str, uri: StoreUri, options: RemoteOptions) -> Self {
        let of_uri = match &uri {
            StoreUri::Auto => None,
            StoreUri::Unix { max_connections, .. } | StoreUri::Local { max_connections, .. } => *max_connections,
            StoreUri::Ssh(ssh) => ssh.max_connections,
        };
        let max_connections = of_uri
            .unwrap_or(options.max_connections)
            .clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            name: name.to_owned(),
            uri,
            is_counted: of_uri.is_some(),
            max_connections: AtomicUsize::new(max_connections),
            slots: Arc::new(Semaphore::new(max_connections)),
            idle: Mutex::new(Vec::new()),
            build: Mutex::new(Build {
                options: options.build.clone(),
                since: Instant::now(),
            }),
            options,
            ssh: SshFiles::default(),
            company: Company::default(),
        }))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its URI.
    #[must_use]
    pub fn uri(&self) -> &StoreUri {
        &self.0.uri
    }

    /// How it was made to be used; [`Self::set_build`] and [`Self::resize`] may have changed that.
    #[must_use]
    pub fn options(&self) -> &RemoteOptions {
        &self.0.options
    }

    /// At most so many pooled connections are open at once.
    #[must_use]
    pub fn max_connections(&self) -> usize {
        self.0.max_connections.load(Ordering::Relaxed)
    }

    /// From now on at most so many pooled connections are open at once; `max-connections` of the URI comes first. Those
    /// that are in use are used on: while they are too many, a task waits for them. Needs a Tokio runtime.
    pub fn resize(&self, connections: usize) {
        if self.0.is_counted {
            return;
        }
        let connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        let before = self.0.max_connections.swap(connections, Ordering::Relaxed);
        self.0.slots.add_permits(connections.saturating_sub(before));
        let fewer = before.saturating_sub(connections);
        if fewer == 0 {
            return;
        }
        let slots = self.0.slots.clone();
        tokio::spawn(async move {
            for _ in 0..fewer {
                // The semaphore is never closed.
                let Ok(slot) = slots.acquire().await else { return };
                slot.forget();
            }
        });
    }

    /// Sets what new connections have as settings of builds. Idle ones are closed; those in use are not used again.
    pub fn set_build(&self, options: BuildOptions) {
        {
            let mut build = self.0.build();
            if build.options == options {
                return;
            }
            *build = Build {
                options,
                since: Instant::now(),
            };
        }
        self.close_idle();
    }

    /// A pooled connection: an idle one that is still good, or a new one. Waits while all are in use; those who wait are
    /// served in the order in which they asked. Dropping the future gives up the place.
    pub async fn acquire(&self) -> Result<Pooled, Unreachable> {
        let slot = self.0.slots.clone().acquire_owned().await;
        // The semaphore is never closed.
        let slot = slot.map_err(|_| self.unreachable(Fault::Closed))?;
        let link = self.take().await?;
        Ok(Pooled {
            link: Some(link),
            home: self.0.clone(),
            _slot: Some(slot),
        })
    }

    /// As [`Self::acquire`], but not counted: the caller bounds how many there are.
    pub async fn borrow(&self) -> Result<Pooled, Unreachable> {
        Ok(Pooled {
            link: Some(self.take().await?),
            home: self.0.clone(),
            _slot: None,
        })
    }

    /// An idle connection that is still good, or a new one. It is the caller's own and not counted, so that it can be
    /// kept for long; [`Self::give_back`] makes it an idle one.
    pub async fn take(&self) -> Result<Link, Unreachable> {
        match self.take_idle().await {
            Some(link) => Ok(link),
            None => self.connect().await,
        }
    }

    /// An idle connection that is still good, if there is one; as with [`Self::take`].
    pub async fn take_idle(&self) -> Option<Link> {
        while let Some(link) = self.pop_idle() {
            if link.watch.needs_runtime() {
                tokio::task::yield_now().await;
            }
            if link.is_fresh() && !self.0.is_too_old(&link) {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a connection for whoever needs one next, unless it cannot be used again or enough are kept.
    pub fn give_back(&self, link: Link) {
        self.0.keep(link);
    }

    /// A connection of the caller's own, beside the pool: for what has to last, such as temporary roots. Bounded in
    /// time by the connect timeout.
    pub async fn connect(&self) -> Result<Link, Unreachable> {
        self.open().await.map_err(|fault| self.unreachable(fault))
    }

    /// Closes the connections that nobody uses.
    pub fn close_idle(&self) {
        // Dropped after the lock.
        let _idle = std::mem::take(&mut *self.0.idle.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Closes the connections that nobody uses and that are too old to be used again.
    pub fn close_old(&self) {
        let mut old = Vec::new();
        {
            let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let (gone, kept) = std::mem::take(&mut *idle)
                .into_iter()
                .partition(|link| self.0.is_too_old(link) || !link.is_fresh());
            *idle = kept;
            old.extend::<Vec<Link>>(gone);
        }
        // Closed after the lock.
        drop(old);
    }

    fn pop_idle(&self) -> Option<Link> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn unreachable(&self, fault: Fault) -> Unreachable {
        Unreachable {
            store: self.0.name.clone(),
            uri: Box::new(self.0.uri.clone()),
            fault: Box::new(fault),
        }
    }

    async fn open(&self) -> Result<Link, Fault> {
        let after = self.0.options.connect_timeout;
        let (route, by_ssh) = self.route()?;
        let (transport, said) = match route {
            Route::Socket(path) => match tokio::time::timeout(after, transport::socket(&path, &self.0.company)).await {
                Ok(transport) => (transport?, None),
                Err(_) => {
                    return Err(Fault::Timeout {
                        after,
                        said: String::new(),
                        by_ssh,
                    });
                }
            },
            Route::Program(command) => {
                let (transport, said) = transport::program(*command)?;
                (transport, Some(said))
            }
        };
        let watch = transport.watch();
        let hello = Hello {
            features: self.0.options.features.clone(),
            store_dir: self.0.options.store_dir.clone(),
            ..Hello::default()
        };
        let (settings, opened) = (self.0.build().options.request(), Instant::now());
        let shake_hands = async {
            let mut connection = match transport {
                Transport::Socket(read, write) => Connection::open(read, write, hello).await?,
                Transport::Program(output, input) => Connection::open(output, input, hello).await?,
            };
            if let Some(settings) = settings {
                connection.call(&settings, &mut ()).await?;
            }
            Ok(connection)
        };
        match tokio::time::timeout(after, shake_hands).await {
            Ok(Ok(connection)) => Ok(Link {
                connection,
                watch,
                said,
                opened,
            }),
            Ok(Err(error)) => Err(Fault::Handshake {
                error,
                said: last_words(said).await,
                by_ssh,
            }),
            Err(_) => Err(Fault::Timeout {
                after,
                said: last_words(said).await,
                by_ssh,
            }),
        }
    }

    /// What to connect to, and whether ssh is in between.
    fn route(&self) -> Result<(Route, bool), Fault> {
        let environment = &self.0.options.environment;
        let mut uri = self.0.uri.clone();
        if uri == StoreUri::Auto
            && let Some(text) = environment.text("NIX_REMOTE")
        {
            uri = text.parse().map_err(Fault::NixRemote)?;
        }
        match uri {
            StoreUri::Auto => {
                let socket = environment.daemon_socket();
                if socket.exists() {
                    return Ok((Route::Socket(socket), false));
                }
                Ok((self.private_daemon(None), false))
            }
            StoreUri::Unix { socket, .. } => Ok((
                Route::Socket(socket.unwrap_or_else(|| environment.daemon_socket())),
                false,
            )),
            StoreUri::Local { layout, .. } => {
                let store = StoreUri::Local {
                    layout,
                    max_connections: None,
                };
                Ok((self.private_daemon(Some(store)), false))
            }
            StoreUri::Ssh(ssh) => {
                let shared = self.max_connections() > 1;
                let timeout = self.0.options.connect_timeout;
                let command = ssh::command(&ssh, &self.0.ssh, shared, timeout, environment)?;
                Ok((Route::Program(Box::new(command)), !ssh.is_pipe()))
            }
        }
    }

    /// A daemon that ends with the connection; on what Nix thinks is the store of this machine unless told.
    fn private_daemon(&self, store: Option<StoreUri>) -> Route {
        let mut command = Command::new("nix-daemon");
        command.arg("--stdio");
        self.0.options.environment.apply(&mut command);
        // Otherwise it would forward to the very daemon that is not there.
        command.env_remove("NIX_REMOTE");
        if let Some(store) = store {
            command.env("NIX_REMOTE", store.to_string());
        }
        Route::Program(Box::new(command))
    }
}

enum Route {
    Socket(PathBuf),
    Program(Box<Command>),
}

async fn last_words(said: Option<Said>) -> String {
    match said {
        Some(said) => said.last_words().await,
        None => String::new(),
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({} = {})", self.0.name, self.0.uri)
    }
}

/// A connection that goes back to its pool when dropped, if it can be used again.
///
/// One that failed, or whose call was cut off by dropping its future, is closed instead.
pub struct Pooled {
    link: Option<Link>,
    home: Arc<Inner>,
    // Freed after the connection is back.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Pooled {
    /// Closes the connection instead of giving it back, which also ends its temporary roots.
    pub fn discard(mut self) {
        self.link = None;
    }
}

#[expect(
    clippy::expect_used,
    reason = "`link` is only taken by `discard` and `drop`, which have the value whole"
)]
impl Deref for Pooled {
    type Target = Link;

    fn deref(&self) -> &Link {
        self.link.as_ref().expect("taken only at the end")
    }
}

#[expect(
    clippy::expect_used,
    reason = "`link` is only taken by `discard` and `drop`, which have the value whole"
)]
impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Link {
        self.link.as_mut().expect("taken only at the end")
    }
}

impl AsMut<Connection> for Pooled {
    fn as_mut(&mut self) -> &mut Connection {
        self
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.link, f)
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.home.keep(link);
        }
    }
}
