use std::pin::pin;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

use super::{Connection, Error, LogSink};
use crate::io::{BUFFER, Decoder, Reader, Writer, put_frame};
use crate::log::Incoming;
use crate::op::{Call, FramedCall, Operation};
use crate::wire::primitive::put_number;
use crate::wire::{Negotiated, Wire, WireError};

impl Connection {
    /// Asks, waits, and returns the reply. The log goes to `log` as it arrives.
    pub async fn call<R: Call>(&mut self, request: &R, log: &mut impl LogSink) -> Result<R::Reply, Error> {
        R::check(&self.agreed.negotiated)?;
        self.begin()?;
        put_request(request, &self.agreed.negotiated, &mut self.writer.out);
        let on = &self.agreed.negotiated;
        let reader = &mut self.reader;
        let reading = async {
            read_log(reader, on, log).await?;
            Ok(R::Reply::read(&mut Decoder::new(reader, on)).await?)
        };
        let result = both(flush(&mut self.writer), reading).await;
        self.settle(result)
    }

    /// Asks many times without waiting in between, and returns the replies in order.
    ///
    /// Every request is answered even when one fails recoverably; the first such error is returned at the end.
    pub async fn call_all<R: Call>(&mut self, requests: &[R], log: &mut impl LogSink) -> Result<Vec<R::Reply>, Error> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        R::check(&self.agreed.negotiated)?;
        self.begin()?;
        let on = &self.agreed.negotiated;
        let reader = &mut self.reader;
        let writer = &mut self.writer;
        let writing = async {
            for request in requests {
                put_request(request, on, &mut writer.out);
                writer.send_if_large().await.map_err(Error::Io)?;
            }
            writer.flush().await.map_err(Error::Io)
        };
        let reading = async {
            let mut replies = Vec::with_capacity(requests.len());
            let mut failed = None;
            for _ in requests {
                match read_log(reader, on, log).await {
                    Ok(()) => replies.push(R::Reply::read(&mut Decoder::new(reader, on)).await?),
                    Err(Error::Remote(error)) => failed = failed.or(Some(error)),
                    Err(error) => return Err(error),
                }
            }
            match failed {
                None => Ok(replies),
                Some(error) => Err(Error::Remote(error)),
            }
        };
        let result = both(writing, reading).await;
        self.settle(result)
    }

    /// Asks, sends `body` in frames to its end, and returns the reply. When the server refuses meanwhile, the rest of
    /// the body is not read.
    ///
    /// An error of `body` itself breaks the connection: there is no way to tell the server.
    pub async fn call_framed<R: FramedCall>(
        &mut self,
        request: &R,
        body: impl AsyncRead + Send + Unpin,
        log: &mut impl LogSink,
    ) -> Result<R::Reply, Error> {
        R::check(&self.agreed.negotiated)?;
        self.begin()?;
        put_request(request, &self.agreed.negotiated, &mut self.writer.out);
        let on = &self.agreed.negotiated;
        let reader = &mut self.reader;
        let (stop, stopped) = watch::channel(false);
        let reading = async {
            let reply = async {
                read_log(reader, on, log).await?;
                Ok(R::Reply::read(&mut Decoder::new(reader, on)).await?)
            };
            let reply = reply.await;
            if reply.is_err() {
                // The end of the frames is still owed: the server waits for it before it goes on.
                stop.send_replace(true);
            }
            reply
        };
        let result = both_to_the_end(send_frames(&mut self.writer, body, stopped), reading).await;
        let lost = R::ERROR_LOSES_STEP && result.is_err();
        let result = self.settle(result);
        if lost {
            self.state = super::connection::State::Broken;
        }
        result
    }
}

pub(super) fn put_request<R: Operation>(request: &R, on: &Negotiated, out: &mut BytesMut) {
    put_number(u64::from(R::OP), out);
    request.encode(on, out);
}

/// Reads the log to its end.
pub(super) async fn read_log(reader: &mut Reader, on: &Negotiated, log: &mut impl LogSink) -> Result<(), Error> {
    loop {
        match Incoming::read(&mut Decoder::new(reader, on)).await? {
            Incoming::Log(message) => log.message(message).await,
            Incoming::Last => return Ok(()),
            Incoming::Error(error) => return Err(Error::Remote(error)),
            // Only operations we never send make a server read or write here.
            message @ (Incoming::Read(_) | Incoming::Write(_)) => {
                return Err(WireError::LogMessage(message.code()).into());
            }
        }
    }
}

pub(super) async fn flush(writer: &mut Writer) -> Result<(), Error> {
    writer.flush().await.map_err(Error::Io)
}

/// Sends frames until `body` ends or somebody says stop, and then the empty frame.
async fn send_frames(
    writer: &mut Writer,
    mut body: impl AsyncRead + Send + Unpin,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), Error> {
    let mut frame = BytesMut::with_capacity(BUFFER);
    loop {
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            read = body.read_buf(&mut frame) => {
                if read.map_err(Error::Body)? == 0 {
                    break;
                }
                put_frame(&frame, &mut writer.out);
                frame.clear();
                writer.send_if_large().await.map_err(Error::Io)?;
            }
            // While the body has nothing, what it had is sent.
            sent = writer.flush(), if !writer.out.is_empty() => sent.map_err(Error::Io)?,
        }
    }
    put_frame(&[], &mut writer.out);
    flush(writer).await
}

/// Runs both until `reading` has the reply. What reading says counts: a server that gives up says why and hangs up,
/// and then writing fails with less to tell.
pub(super) async fn both<T>(
    writing: impl Future<Output = Result<(), Error>> + Send,
    reading: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, Error> {
    let mut writing = pin!(writing);
    let mut reading = pin!(reading);
    let mut written = false;
    std::future::poll_fn(|cx| {
        written = written || writing.as_mut().poll(cx).is_ready();
        reading.as_mut().poll(cx)
    })
    .await
}

/// As [`both`], but writing is brought to its end too, unless the connection broke. Failing to read what is to be sent
/// counts at once.
async fn both_to_the_end<T>(
    writing: impl Future<Output = Result<(), Error>> + Send,
    reading: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, Error> {
    let mut writing = pin!(writing);
    let mut reading = pin!(reading);
    let mut written = false;
    let mut reply = None;
    std::future::poll_fn(|cx| {
        // Reading first: it may tell the writer to stop.
        if reply.is_none()
            && let Poll::Ready(result) = reading.as_mut().poll(cx)
        {
            reply = Some(result);
        }
        if !written && let Poll::Ready(result) = writing.as_mut().poll(cx) {
            written = true;
            if let Err(error @ Error::Body(_)) = result {
                return Poll::Ready(Err(error));
            }
        }
        let broken = matches!(&reply, Some(Err(error)) if !error.is_remote());
        match reply.take() {
            Some(result) if written || broken => Poll::Ready(result),
            other => {
                reply = other;
                Poll::Pending
            }
        }
    })
    .await
}
