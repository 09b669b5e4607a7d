use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;

use super::body::{Body, Input};
use super::{Exchange, Handler, HandlerError, ServeError};
use crate::handshake::{HandshakeError, Offer, ServerHandshake};
use crate::io::{BUFFER, Decoder, ReadError, Reader, Writer, put_frame};
use crate::log::{Incoming, RemoteError};
use crate::op::{JsonLines, Nar, Reply, Request};
use crate::types::{StoreDir, Trust};
use crate::version::Version;
use crate::wire::{Limits, Negotiated, Wire};

/// Bytes in a frame that we send.
const FRAME: usize = 256 * 1024;

/// What a server brings along.
#[derive(Debug, Clone)]
pub struct ServerHello {
    /// What it says its version is; stock clients show it.
    pub version_text: String,
    /// Whether it trusts this client.
    pub trust: Trust,
    /// Features it knows.
    pub features: Vec<String>,
    /// The directory of all paths.
    pub store_dir: StoreDir,
    /// What it takes into memory.
    pub limits: Limits,
}

/// Serves one client until it hangs up.
///
/// Cancelling it drops the handler's future and the connection. A panic of the handler passes through.
pub async fn serve<H: Handler>(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    hello: ServerHello,
    mut handler: H,
) -> Result<(), ServeError> {
    let mut reader = Reader::new(Box::new(read));
    let mut writer = Writer::new(Box::new(write));
    let Some(on) = shake_hands(&mut reader, &mut writer, hello).await? else {
        return Ok(());
    };
    Incoming::Last.encode(&on, &mut writer.out);
    writer.flush().await.map_err(ServeError::Io)?;
    let mut session = Session {
        input: Input::new(reader),
        writer,
        on,
    };
    let result = session.run(&mut handler).await;
    // Whatever happened, what is buffered (an error, perhaps) goes out if it still can.
    let _ = session.writer.shutdown().await;
    result
}

/// Shakes hands only to say why the client is not served.
pub async fn refuse(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    hello: ServerHello,
    message: impl Into<String> + Send,
) -> Result<(), ServeError> {
    let mut reader = Reader::new(Box::new(read));
    let mut writer = Writer::new(Box::new(write));
    if let Some(on) = shake_hands(&mut reader, &mut writer, hello).await? {
        Incoming::Error(RemoteError::new(message)).encode(&on, &mut writer.out);
        writer.shutdown().await.map_err(ServeError::Io)?;
    }
    Ok(())
}

/// None when the client hung up before it had said anything.
async fn shake_hands(
    reader: &mut Reader,
    writer: &mut Writer,
    hello: ServerHello,
) -> Result<Option<Negotiated>, ServeError> {
    let offer = Offer {
        version: Version::MAX,
        features: hello.features,
        store_dir: hello.store_dir,
        limits: hello.limits,
    };
    let mut machine = ServerHandshake::new(offer, hello.version_text, hello.trust);
    let mut out = BytesMut::new();
    let mut silent = true;
    loop {
        let progress = machine.receive(reader.buffered(), &mut out);
        writer.out.extend_from_slice(&out.split());
        let progress = match progress {
            Ok(progress) => progress,
            Err(error) => return Err(too_old(writer, error).await),
        };
        reader.consume(progress.consumed);
        if let Some(negotiated) = progress.done {
            return Ok(Some(negotiated));
        }
        writer.flush().await.map_err(ServeError::Io)?;
        match reader.fill().await {
            Ok(0) if silent => return Ok(None),
            Ok(0) => {
                let operation = "the handshake".to_owned();
                return Err(ServeError::HungUp { operation });
            }
            Ok(_) => silent = false,
            Err(error) => return Err(ServeError::Io(error)),
        }
    }
}

/// A client of another version has learnt ours when the connection closes, as from a stock server.
async fn too_old(writer: &mut Writer, error: HandshakeError) -> ServeError {
    let _ = writer.shutdown().await;
    error.into()
}

struct Session {
    input: Input,
    writer: Writer,
    on: Negotiated,
}

impl Session {
    async fn run(&mut self, handler: &mut impl Handler) -> Result<(), ServeError> {
        loop {
            let Some(request) = self.request().await? else {
                return Ok(());
            };
            self.input.state().body = Body::new(request.body(&self.on));
            self.answer(request, handler).await?;
        }
    }

    /// The next request; none when the client hung up before it.
    async fn request(&mut self) -> Result<Option<Request>, ServeError> {
        let reader = &mut self.input.state().reader;
        let number = match u64::read(&mut Decoder::new(reader, &self.on)).await {
            Ok(number) => number,
            Err(ReadError::Closed) if reader.buffered().is_empty() => return Ok(None),
            Err(error) => return Err(ServeError::reading("the next operation", error)),
        };
        let mut decoder = Decoder::new(reader, &self.on);
        match Request::read(number, &mut decoder).await {
            Ok(request) => Ok(Some(request)),
            Err(error) => {
                let operation = Request::name_of(number).map_or_else(|| format!("operation {number}"), str::to_owned);
                let error = ServeError::reading(operation, error);
                if let ServeError::Request { .. } = error {
                    self.put_error(RemoteError::new(error.to_string()));
                }
                Err(error)
            }
        }
    }

    async fn answer(&mut self, request: Request, handler: &mut impl Handler) -> Result<(), ServeError> {
        let operation = request.name();
        let shape = request.reply_shape();
        let outcome = {
            let (hang_up, gone) = watch::channel(false);
            let mut exchange = Exchange {
                input: &self.input,
                writer: &mut self.writer,
                on: &self.on,
                gone: &gone,
            };
            tokio::select! {
                biased;
                outcome = handler.handle(request, &mut exchange) => outcome,
                () = self.input.hang_up() => {
                    hang_up.send_replace(true);
                    let operation = operation.to_owned();
                    return Err(ServeError::HungUp { operation });
                }
            }
        };
        let outcome = outcome.and_then(|reply| {
            if reply.fits(shape) {
                return Ok(reply);
            }
            let text = format!("internal error: the handler of {operation} gave a reply of another kind");
            Err(HandlerError::new(text))
        });
        match outcome {
            Ok(reply) => {
                self.drain().await;
                self.check_body(operation, None)?;
                self.input.state().body = Body::Ended;
                Incoming::Last.encode(&self.on, &mut self.writer.out);
                reply.encode(shape, &self.on, &mut self.writer.out);
                if let Reply::Nar(nar) = reply {
                    self.send_nar(operation, nar).await?;
                } else if let Reply::JsonLines(lines) = reply {
                    self.send_lines(operation, lines).await?;
                }
            }
            Err(HandlerError(error)) => {
                self.check_body(operation, Some(&error))?;
                self.put_error(error);
                // Told early, a client stops sending; what is on its way is skipped.
                self.writer.flush().await.map_err(ServeError::Io)?;
                if self.input.state().body.is_owed() {
                    self.drain().await;
                    self.check_body(operation, None)?;
                }
                self.input.state().body = Body::Ended;
            }
        }
        self.writer.flush().await.map_err(ServeError::Io)
    }

    async fn drain(&mut self) {
        let (_hang_up, gone) = watch::channel(false);
        let mut exchange = Exchange {
            input: &self.input,
            writer: &mut self.writer,
            on: &self.on,
            gone: &gone,
        };
        exchange.drain().await;
    }

    /// Ends the connection when the body is broken; the client is told what the handler made of it, or what is wrong.
    fn check_body(&mut self, operation: &'static str, handlers: Option<&RemoteError>) -> Result<(), ServeError> {
        let Body::Broken(message) = &self.input.state().body else {
            return Ok(());
        };
        let message = message.clone();
        let told = handlers.cloned();
        self.put_error(told.unwrap_or_else(|| RemoteError::new(format!("{operation}: {message}"))));
        Err(ServeError::Body { operation, message })
    }

    fn put_error(&mut self, error: RemoteError) {
        Incoming::Error(error).encode(&self.on, &mut self.writer.out);
    }

    async fn send_nar(&mut self, operation: &'static str, nar: Nar) -> Result<(), ServeError> {
        let reply = |error| ServeError::Reply { operation, error };
        let mut left = nar.size;
        let mut reader = nar.reader.take(nar.size.saturating_add(1));
        loop {
            self.writer.out.reserve(BUFFER);
            let taken = reader.read_buf(&mut self.writer.out).await.map_err(reply)? as u64;
            if taken == 0 && left == 0 {
                return Ok(());
            }
            if taken == 0 || taken > left {
                let text = format!("a NAR announced with {} bytes has another size", nar.size);
                self.writer.out.clear();
                return Err(reply(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
            left -= taken;
            self.writer.send_if_large().await.map_err(ServeError::Io)?;
        }
    }

    async fn send_lines(&mut self, operation: &'static str, mut lines: JsonLines) -> Result<(), ServeError> {
        self.writer.flush().await.map_err(ServeError::Io)?;
        loop {
            let line = tokio::select! {
                biased;
                () = self.input.hang_up() => {
                    let operation = operation.to_owned();
                    return Err(ServeError::HungUp { operation });
                }
                line = lines.recv() => line,
            };
            let Some(line) = line else {
                put_frame(&[], &mut self.writer.out);
                return Ok(());
            };
            self.put_line(line);
            // What is ready goes out together, as long as it is not much.
            while self.writer.out.len() < BUFFER {
                match lines.try_recv() {
                    Ok(line) => self.put_line(line),
                    Err(_) => break,
                }
            }
            self.writer.flush().await.map_err(ServeError::Io)?;
        }
    }

    fn put_line(&mut self, line: String) {
        let mut line = line.into_bytes();
        line.push(b'\n');
        for piece in line.chunks(FRAME) {
            put_frame(piece, &mut self.writer.out);
        }
    }
}
