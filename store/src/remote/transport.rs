//! Bytes to a store and back: a socket, or the pipes of a program.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use nixci_protocol::io::{Company, SocketReader, SocketWatch, SocketWriter};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::error::Fault;
use super::said::Said;

/// Two directions of bytes.
pub(super) enum Transport {
    Socket(SocketReader, SocketWriter),
    Program(Output, Box<Input>),
}

/// Something to look at a connection with while nobody uses it.
pub(super) enum Watch {
    Socket(SocketWatch),
    Program(Output),
}

impl Watch {
    /// Whether the other side is there and silent, as it has to be between two calls.
    pub(super) fn is_quiet(&self) -> bool {
        match self {
            Self::Socket(socket) => socket.is_quiet(),
            Self::Program(output) => output.is_quiet(),
        }
    }

    /// Whether what the other side did is only known once the runtime has looked.
    pub(super) fn needs_runtime(&self) -> bool {
        match self {
            Self::Socket(_) => false,
            Self::Program(_) => true,
        }
    }
}

impl Transport {
    pub(super) fn watch(&self) -> Watch {
        match self {
            Self::Socket(read, _) => Watch::Socket(read.watch()),
            Self::Program(output, _) => Watch::Program(output.clone()),
        }
    }
}

/// Connects to a daemon's socket.
pub(super) async fn socket(path: &Path, company: &Company) -> Result<Transport, Fault> {
    let stream = (UnixStream::connect(path).await).map_err(|error| Fault::Socket {
        socket: path.to_owned(),
        error,
    })?;
    let (read, write) = nixci_protocol::io::socket(stream, company);
    Ok(Transport::Socket(read, write))
}

/// Starts a program that speaks the protocol on its standard input and output. It is killed when the writing half is
/// dropped, together with the connection.
pub(super) fn program(mut command: Command) -> Result<(Transport, Said), Fault> {
    let fault = |command: &Command, error| {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        Fault::Program { program, error }
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // A Ctrl-C on our terminal is for us to handle, not for the programs we started.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| fault(&command, error))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(fault(&command, io::ErrorKind::BrokenPipe.into()));
    };
    let input = Box::new(Input { stdin, _child: child });
    let output = Output(Arc::new(Mutex::new(stdout)));
    Ok((Transport::Program(output, input), Said::listen(stderr)))
}

/// The input of a program, and the program.
pub(super) struct Input {
    stdin: ChildStdin,
    _child: Child,
}

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}

/// The output of a program, which the pool can look at while the connection is idle.
#[derive(Clone)]
// Locked for one poll, never across an await; the pool looks only when nobody reads.
pub(super) struct Output(Arc<Mutex<ChildStdout>>);

impl Output {
    fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut reader = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *reader)
            .poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer)
            .is_pending()
    }
}

impl AsyncRead for Output {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut reader = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *reader).poll_read(cx, buffer)
    }
}
