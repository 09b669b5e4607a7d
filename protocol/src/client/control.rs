use super::call::{both, flush, put_request, read_log};
use super::connection::State;
use super::{Connection, Error};
use crate::io::Decoder;
use crate::nixci::{CONTROL_LINES, CONTROL_VALUE, Control};
use crate::op::Operation;
use crate::wire::primitive::{failure, number, text};
use crate::wire::{Negotiated, Parsed, Source, Wire, WireError};

impl Connection {
    /// Sends a control request that is answered by one JSON value.
    pub async fn control_one(&mut self, json: &str) -> Result<String, Error> {
        let mut stream = self.control(json).await?;
        let Some(json) = stream.value.take() else {
            let value = CONTROL_LINES;
            let what = "control reply for one value";
            return Err(WireError::Tag { what, value }.into());
        };
        Ok(json)
    }

    /// Sends a control request that is answered by a stream of JSON lines. A single value is a stream of one line.
    pub async fn control_stream(&mut self, json: &str) -> Result<ControlStream<'_>, Error> {
        self.control(json).await
    }

    async fn control(&mut self, json: &str) -> Result<ControlStream<'_>, Error> {
        Control::check(&self.agreed.negotiated)?;
        self.begin()?;
        let request = Control { json: json.to_owned() };
        put_request(&request, &self.agreed.negotiated, &mut self.writer.out);
        let on = &self.agreed.negotiated;
        let reader = &mut self.reader;
        let reading = async {
            read_log(reader, on, &mut ()).await?;
            let mut decoder = Decoder::new(reader, on);
            match u64::read(&mut decoder).await? {
                CONTROL_VALUE => Ok(Some(Json::read(&mut decoder).await?.0)),
                CONTROL_LINES => Ok(None),
                value => {
                    let what = "kind of control reply";
                    Err(WireError::Tag { what, value }.into())
                }
            }
        };
        let result = both(flush(&mut self.writer), reading).await;
        match result {
            // The lines are still to come: the connection stays busy until they have.
            Ok(None) => Ok(ControlStream {
                connection: self,
                value: None,
                line: Vec::new(),
                frame_left: 0,
                ended: false,
            }),
            value => {
                let value = self.settle(value)?;
                Ok(ControlStream {
                    connection: self,
                    value,
                    line: Vec::new(),
                    frame_left: 0,
                    ended: true,
                })
            }
        }
    }
}

/// A JSON text within `max_control`.
struct Json(String);

impl Wire for Json {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        from.parse(|on, input| {
            let (rest, json) = text(on.limits.control(), input)?;
            Ok((rest, Self(json.to_owned())))
        })
        .await
    }

    fn encode(&self, _: &Negotiated, out: &mut bytes::BytesMut) {
        crate::wire::primitive::put_string(self.0.as_bytes(), out);
    }
}

/// The lines a control request is answered with. Dropped before its end, it leaves the connection unusable; dropping
/// the connection too is how to stop it.
#[derive(Debug)]
pub struct ControlStream<'a> {
    connection: &'a mut Connection,
    value: Option<String>,
    line: Vec<u8>,
    frame_left: u64,
    ended: bool,
}

impl ControlStream<'_> {
    /// The next JSON text; none after the last. Cancel safe.
    pub async fn next_line(&mut self) -> Result<Option<String>, Error> {
        if let Some(value) = self.value.take() {
            return Ok(Some(value));
        }
        if self.ended {
            return Ok(None);
        }
        let result = self.read_line().await;
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => {
                self.ended = true;
                self.connection.settle(Ok(()))?;
            }
            Err(_) => {
                self.ended = true;
                self.connection.state = State::Broken;
            }
        }
        result
    }

    async fn read_line(&mut self) -> Result<Option<String>, Error> {
        let limit = self.connection.agreed.negotiated.limits.control();
        loop {
            if self.frame_left == 0 {
                let on = &self.connection.agreed.negotiated;
                let mut decoder = Decoder::new(&mut self.connection.reader, on);
                self.frame_left = decoder.parse(frame_length).await?;
                if self.frame_left == 0 {
                    // A last line without its newline is a line.
                    return if self.line.is_empty() {
                        Ok(None)
                    } else {
                        self.finish_line().map(Some)
                    };
                }
            }
            let buffered = self.connection.reader.buffered();
            if buffered.is_empty() {
                if self.connection.reader.fill().await.map_err(Error::Io)? == 0 {
                    return Err(Error::Closed);
                }
                continue;
            }
            let available = buffered
                .len()
                .min(usize::try_from(self.frame_left).unwrap_or(usize::MAX));
            let newline = buffered[..available].iter().position(|byte| *byte == b'\n');
            let text = newline.unwrap_or(available);
            let length = (self.line.len() + text) as u64;
            if length > limit.max {
                return Err(WireError::StringTooLong { length, limit }.into());
            }
            self.line.extend_from_slice(&buffered[..text]);
            let taken = newline.map_or(available, |at| at + 1);
            self.connection.reader.consume(taken);
            self.frame_left -= taken as u64;
            if newline.is_some() && !self.line.is_empty() {
                return self.finish_line().map(Some);
            }
        }
    }

    fn finish_line(&mut self) -> Result<String, Error> {
        let line = std::mem::take(&mut self.line);
        String::from_utf8(line).map_err(|error| {
            let shown = String::from_utf8_lossy(error.as_bytes());
            WireError::Utf8(shown.chars().take(100).collect()).into()
        })
    }
}

/// `frame length = number within the limit; 0 ends the stream`
pub(crate) fn frame_length<'i>(on: &Negotiated, input: &'i [u8]) -> Parsed<'i, u64> {
    let (rest, length) = number(input)?;
    let limit = on.limits.frame();
    if length > limit.max {
        return Err(failure(WireError::FrameTooLong { length, limit }));
    }
    Ok((rest, length))
}
