use std::fmt;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Error, LogSink};
use crate::handshake::{Agreed, ClientHandshake, Offer};
use crate::io::{Reader, Writer};
use crate::types::{StoreDir, Trust};
use crate::version::Version;
use crate::wire::{Limits, Negotiated};

/// What a client brings along.
#[derive(Debug, Clone)]
pub struct Hello {
    /// Features it knows; each side uses those the other knows too.
    pub features: Vec<String>,
    /// The directory of all paths.
    pub store_dir: StoreDir,
    /// What it takes into memory.
    pub limits: Limits,
    /// The highest version it speaks.
    pub max_version: Version,
    /// Whether the server is known to speak protocol 1.38 or later, so that the client says all it has to say at once
    /// and the handshake takes one turn in place of two. A stock server that is older would misunderstand it.
    pub at_once: bool,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            features: Vec::new(),
            store_dir: StoreDir::default(),
            limits: Limits::default(),
            max_version: Version::MAX,
            at_once: false,
        }
    }
}

/// A connection to a server that speaks the worker protocol.
///
/// One operation at a time: methods take `&mut self`. An operation whose future is dropped leaves the connection
/// unusable, which [`Connection::is_reusable`] tells; dropping the connection hangs up, and a server takes that as
/// a wish to stop.
pub struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) agreed: Agreed,
    pub(super) state: State,
}

/// What may be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Anything.
    Idle,
    /// An operation runs, or was cut off.
    Busy,
    /// Nothing.
    Broken,
}

impl Connection {
    /// Shakes hands. Does not send [`crate::op::SetOptions`].
    pub async fn open(
        read: impl AsyncRead + Send + Unpin + 'static,
        write: impl AsyncWrite + Send + Unpin + 'static,
        hello: Hello,
    ) -> Result<Self, Error> {
        let mut reader = Reader::new(read);
        let mut writer = Writer::new(write);
        let agreed = shake_hands(&mut reader, &mut writer, hello).await?;
        let mut this = Self {
            reader,
            writer,
            agreed,
            state: State::Busy,
        };
        match this.read_log(&mut ()).await {
            Ok(()) => this.state = State::Idle,
            Err(Error::Remote(error)) => return Err(Error::Refused(error)),
            Err(error) => return Err(error),
        }
        Ok(this)
    }

    /// What was agreed.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.agreed.negotiated
    }

    /// What the server says its version is; none before 1.33.
    #[must_use]
    pub fn daemon_version(&self) -> Option<&str> {
        self.agreed.daemon_version.as_deref()
    }

    /// Whether the server trusts us.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.agreed.trust
    }

    /// Whether another operation may be tried: not after any error but a recoverable one of the server, nor after an
    /// operation was cut off.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.state == State::Idle && self.reader.buffered().is_empty()
    }

    /// Ready when the server has hung up, or said something that nobody asked for; then the connection is of no more
    /// use. Cancel safe: what it was cancelled by may use the connection.
    pub async fn hung_up(&mut self) {
        if self.is_reusable() {
            // Whatever comes is not an answer.
            drop(self.reader.fill().await);
        }
        self.state = State::Broken;
    }

    /// Says goodbye. Dropping does the same, less politely.
    pub async fn close(mut self) -> Result<(), Error> {
        self.writer.shutdown().await.map_err(Error::Io)
    }

    /// Says goodbye, and waits until the server has closed its side too: what it kept for as long as the connection is
    /// let go then.
    pub async fn close_and_wait(mut self) -> Result<(), Error> {
        self.writer.shutdown().await.map_err(Error::Io)?;
        while self.reader.fill().await.map_err(Error::Io)? > 0 {
            let read = self.reader.buffered().len();
            self.reader.consume(read);
        }
        Ok(())
    }

    /// Begins an operation; until [`Self::settle`] says otherwise the connection counts as cut off.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        if !self.is_reusable() {
            return Err(Error::NotReusable);
        }
        // A server that gave up after its last error has closed by now: better known before anything is sent.
        match self.reader.take_now() {
            Poll::Pending => {
                self.state = State::Busy;
                Ok(())
            }
            Poll::Ready(Ok(0)) => {
                self.state = State::Broken;
                Err(Error::Closed)
            }
            Poll::Ready(Ok(_)) => {
                self.state = State::Broken;
                Err(Error::NotReusable)
            }
            Poll::Ready(Err(error)) => {
                self.state = State::Broken;
                Err(Error::Io(error))
            }
        }
    }

    /// Ends an operation.
    pub(super) fn settle<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.state = match &result {
            Ok(_) | Err(Error::Remote(_)) if self.reader.buffered().is_empty() && self.writer.out.is_empty() => {
                State::Idle
            }
            // Bytes nobody asked for: after an error, the server repeats it before it hangs up.
            Ok(_) | Err(_) => State::Broken,
        };
        result
    }

    /// Reads the log to its end.
    pub(super) async fn read_log(&mut self, log: &mut impl LogSink) -> Result<(), Error> {
        super::call::read_log(&mut self.reader, &self.agreed.negotiated, log).await
    }
}

async fn shake_hands(reader: &mut Reader, writer: &mut Writer, hello: Hello) -> Result<Agreed, Error> {
    let offer = Offer {
        version: hello.max_version,
        features: hello.features,
        store_dir: hello.store_dir,
        limits: hello.limits,
    };
    let mut out = BytesMut::new();
    let mut machine = if hello.at_once {
        ClientHandshake::start_at_once(offer, &mut out)
    } else {
        ClientHandshake::start(offer, &mut out)
    };
    loop {
        writer.out.extend_from_slice(&out.split());
        // A write that fails hides why: what the server said before it hung up says it, so reading goes on.
        let sent = writer.flush().await;
        if reader.fill().await.map_err(Error::Io)? == 0 {
            return Err(Error::Closed);
        }
        let progress = machine.receive(reader.buffered(), &mut out)?;
        reader.consume(progress.consumed);
        sent.map_err(Error::Io)?;
        if let Some(agreed) = progress.done {
            // The last words of an old handshake are ours.
            writer.out.extend_from_slice(&out);
            writer.flush().await.map_err(Error::Io)?;
            return Ok(agreed);
        }
    }
}

impl AsMut<Self> for Connection {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("version", &self.agreed.negotiated.version)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
