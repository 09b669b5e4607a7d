use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;

use super::body::{Body, State, Wires};
use super::greet::knows_none;
use super::{Exchange, Greeted, Handler, HandlerError, ServeError, ServerHello, greet};
use crate::io::{BUFFER, Decoder, ReadError, Reader, put_frame};
use crate::log::{Incoming, RemoteError};
use crate::op::{JsonLines, Nar, Reply, Request};
use crate::wire::{Negotiated, Wire};

/// Bytes in a frame that we send.
const FRAME: usize = 256 * 1024;

/// Serves one client until it hangs up.
///
/// Cancelling it drops the handler's future and the connection. A panic of the handler passes through.
pub async fn serve<H: Handler>(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    hello: ServerHello,
    handler: H,
) -> Result<(), ServeError> {
    match greet(read, write, hello, knows_none).await? {
        Some(greeted) => greeted.serve(handler).await,
        None => Ok(()),
    }
}

impl Greeted {
    /// Serves the client until it hangs up, as [`serve`] does.
    pub async fn serve(self, mut handler: impl Handler) -> Result<(), ServeError> {
        let Self {
            reader, mut writer, on, ..
        } = self;
        Incoming::Last.encode(&on, &mut writer.out);
        writer.flush().await.map_err(ServeError::Io)?;
        let mut session = Session {
            wires: Wires::new(reader, writer),
            on,
            gone: watch::Sender::new(false),
        };
        let result = session.run(&mut handler).await;
        // Whatever happened, what is buffered (an error, perhaps) goes out if it still can.
        let _ = session.wires.state().writer.shutdown().await;
        result
    }
}

struct Session {
    wires: Wires,
    on: Negotiated,
    /// Whether the client has hung up.
    gone: watch::Sender<bool>,
}

impl Session {
    async fn run(&mut self, handler: &mut impl Handler) -> Result<(), ServeError> {
        loop {
            let Some(request) = self.request().await? else {
                return Ok(());
            };
            self.wires.state().body = Body::new(request.body(&self.on));
            self.answer(request, handler).await?;
            if handler.is_over() {
                return Ok(());
            }
        }
    }

    /// The next request; none when the client hung up before it. Answers are sent before it is waited for.
    async fn request(&mut self) -> Result<Option<Request>, ServeError> {
        let State { reader, writer, .. } = self.wires.state();
        if reader.buffered().is_empty() {
            writer.flush().await.map_err(ServeError::Io)?;
            // A client may be silent for hours: it holds no buffers meanwhile.
            reader.rest();
            writer.rest();
        } else {
            writer.send_if_large().await.map_err(ServeError::Io)?;
        }
        let read = {
            let mut reading = pin!(read_request(reader, &self.on));
            poll_fn(|cx| {
                if let Poll::Ready(read) = reading.as_mut().poll(cx) {
                    return Poll::Ready(read);
                }
                match writer.poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(ServeError::Io(error))),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                }
            })
            .await
        };
        if let Err(error @ ServeError::Request { .. }) = &read {
            self.put_error(RemoteError::new(error.to_string()));
        }
        read
    }

    async fn answer(&mut self, request: Request, handler: &mut impl Handler) -> Result<(), ServeError> {
        let operation = request.name();
        let shape = request.reply_shape();
        let outcome = {
            let mut exchange = Exchange {
                wires: &self.wires,
                on: &self.on,
                gone: &self.gone,
            };
            tokio::select! {
                biased;
                outcome = handler.handle(request, &mut exchange) => outcome,
                () = self.wires.hang_up() => {
                    self.gone.send_replace(true);
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
                let State { writer, body, .. } = self.wires.state();
                *body = Body::Ended;
                Incoming::Last.encode(&self.on, &mut writer.out);
                reply.encode(shape, &self.on, &mut writer.out);
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
                if self.wires.state().body.is_owed() {
                    self.wires.flush().await.map_err(ServeError::Io)?;
                    self.drain().await;
                    self.check_body(operation, None)?;
                }
                self.wires.state().body = Body::Ended;
            }
        }
        Ok(())
    }

    async fn drain(&mut self) {
        if matches!(self.wires.state().body, Body::Ended) {
            return;
        }
        let mut exchange = Exchange {
            wires: &self.wires,
            on: &self.on,
            gone: &self.gone,
        };
        exchange.drain().await;
    }

    /// Ends the connection when the body is broken; the client is told what the handler made of it, or what is wrong.
    fn check_body(&mut self, operation: &'static str, handlers: Option<&RemoteError>) -> Result<(), ServeError> {
        let Body::Broken(message) = &self.wires.state().body else {
            return Ok(());
        };
        let message = message.clone();
        let told = handlers.cloned();
        self.put_error(told.unwrap_or_else(|| RemoteError::new(format!("{operation}: {message}"))));
        Err(ServeError::Body { operation, message })
    }

    fn put_error(&mut self, error: RemoteError) {
        Incoming::Error(error).encode(&self.on, &mut self.wires.state().writer.out);
    }

    async fn send_nar(&mut self, operation: &'static str, mut nar: Nar) -> Result<(), ServeError> {
        let reply = |error| ServeError::Reply { operation, error };
        let mut left = nar.size;
        let writer = &mut self.wires.state().writer;
        loop {
            let passed = match writer.socket() {
                Some(socket) => poll_fn(|cx| nar.reader.poll_pass(cx, socket)).await.map_err(reply)?,
                None => 0,
            };
            let taken = if passed == 0 {
                writer.out.reserve(BUFFER);
                nar.reader.read_buf(&mut writer.out).await.map_err(reply)? as u64
            } else {
                passed
            };
            if taken == 0 && left == 0 {
                return Ok(());
            }
            if taken == 0 || taken > left {
                let text = format!("a NAR announced with {} bytes has another size", nar.size);
                writer.out.clear();
                return Err(reply(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
            left -= taken;
            writer.send_if_large().await.map_err(ServeError::Io)?;
        }
    }

    async fn send_lines(&mut self, operation: &'static str, mut lines: JsonLines) -> Result<(), ServeError> {
        self.wires.flush().await.map_err(ServeError::Io)?;
        loop {
            let line = tokio::select! {
                biased;
                () = self.wires.hang_up() => {
                    let operation = operation.to_owned();
                    return Err(ServeError::HungUp { operation });
                }
                line = lines.recv() => line,
            };
            let Some(line) = line else {
                put_frame(&[], &mut self.wires.state().writer.out);
                return Ok(());
            };
            self.put_line(line);
            // What is ready goes out together, as long as it is not much.
            while self.wires.state().writer.out.len() < BUFFER {
                match lines.try_recv() {
                    Ok(line) => self.put_line(line),
                    Err(_) => break,
                }
            }
            self.wires.flush().await.map_err(ServeError::Io)?;
        }
    }

    fn put_line(&mut self, line: String) {
        let mut line = line.into_bytes();
        line.push(b'\n');
        for piece in line.chunks(FRAME) {
            put_frame(piece, &mut self.wires.state().writer.out);
        }
    }
}

/// The next request; none when the client hung up before it.
async fn read_request(reader: &mut Reader, on: &Negotiated) -> Result<Option<Request>, ServeError> {
    let number = match u64::read(&mut Decoder::new(reader, on)).await {
        Ok(number) => number,
        Err(ReadError::Closed) if reader.buffered().is_empty() => return Ok(None),
        Err(error) => return Err(ServeError::reading("the next operation", error)),
    };
    let mut decoder = Decoder::new(reader, on);
    Request::read(number, &mut decoder).await.map(Some).map_err(|error| {
        let operation = Request::name_of(number).map_or_else(|| format!("operation {number}"), str::to_owned);
        ServeError::reading(operation, error)
    })
}
