//! The log channel: what a server says while it works, and how it ends.

use bytes::{Bytes, BytesMut};

use crate::types::Verbosity;
use crate::version::Version;
use crate::wire::primitive::{failure, number, put_number, put_string};
use crate::wire::{Negotiated, Source, Wire, WireError, read, read_message};

const LAST: u64 = 0x616c_7473;
pub(crate) const ERROR: u64 = 0x6378_7470;
const NEXT: u64 = 0x6f6c_6d67;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// The word in front of a structured error, and its legacy name.
const ERROR_WORD: &str = "Error";
/// The name of an error that says that the client may not do it.
const REFUSAL_NAME: &str = "NotAllowed";

/// What an activity is. Unknown numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActivityType(pub u64);

impl ActivityType {
    /// Nothing in particular.
    pub const UNKNOWN: Self = Self(0);
    /// Fields: path, source, destination.
    pub const COPY_PATH: Self = Self(100);
    /// The root of a build request.
    pub const REALISE: Self = Self(102);
    /// Parent of copies.
    pub const COPY_PATHS: Self = Self(103);
    /// Parent of builds.
    pub const BUILDS: Self = Self(104);
    /// Fields: derivation path, machine (empty is local), 1, 1.
    pub const BUILD: Self = Self(105);
    /// Fields: path, substituter.
    pub const SUBSTITUTE: Self = Self(108);
    /// Fields: none, or derivation path and resolved derivation path.
    pub const BUILD_WAITING: Self = Self(111);
}

/// What a result says. Unknown numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultType(pub u64);

impl ResultType {
    /// Field: a line of a build's log, without its newline.
    pub const BUILD_LOG_LINE: Self = Self(101);
    /// Field: the phase the builder entered.
    pub const SET_PHASE: Self = Self(104);
    /// Fields: done, expected, running, failed.
    pub const PROGRESS: Self = Self(105);
    /// Fields: activity type, expected.
    pub const SET_EXPECTED: Self = Self(106);
    /// Field: a line of a post-build hook.
    pub const POST_BUILD_LOG_LINE: Self = Self(107);
}

/// One field of a structured message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Int(u64),
    /// A text; UTF-8 where a builder did not print something else.
    Text(Bytes),
}

impl Field {
    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Int(_) => None,
            Self::Text(text) => Some(text),
        }
    }

    /// The number, if it is one.
    #[must_use]
    pub fn int(&self) -> Option<u64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Text(_) => None,
        }
    }
}

/// What a server says while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogMessage {
    /// Text for people, normally one line with its newline; not attributable to a derivation.
    Next {
        /// The text, ANSI escapes included.
        text: Bytes,
    },
    /// Something began.
    StartActivity {
        /// Unique within the server's process.
        id: u64,
        /// How important it is.
        level: Verbosity,
        /// What it is.
        kind: ActivityType,
        /// What to show of it.
        text: Bytes,
        /// By kind.
        fields: Vec<Field>,
        /// The activity it is part of; 0 is none.
        parent: u64,
    },
    /// Something ended.
    StopActivity {
        /// Which.
        id: u64,
    },
    /// Something is to be said about an activity.
    Result {
        /// Which.
        id: u64,
        /// What kind of thing.
        kind: ResultType,
        /// The thing.
        fields: Vec<Field>,
    },
}

impl LogMessage {
    /// A line for people; the newline is added.
    #[must_use]
    pub fn line(text: impl AsRef<str>) -> Self {
        Self::Next {
            text: format!("{}\n", text.as_ref()).into(),
        }
    }

    /// Appends the message as far as the version knows such messages: before 1.20 an activity's text
    /// becomes a line, and the rest nothing.
    pub fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        let structured = on.version >= Version::STRUCTURED_LOG;
        match self {
            Self::Next { text } => {
                put_number(NEXT, out);
                put_string(text, out);
            }
            Self::StartActivity { text, .. } if !structured => {
                if !text.is_empty() {
                    put_number(NEXT, out);
                    put_string(&[text, &b"...\n"[..]].concat(), out);
                }
            }
            Self::StopActivity { .. } | Self::Result { .. } if !structured => {}
            Self::StartActivity {
                id,
                level,
                kind,
                text,
                fields,
                parent,
            } => {
                put_number(START_ACTIVITY, out);
                id.encode(on, out);
                level.encode(on, out);
                kind.0.encode(on, out);
                text.encode(on, out);
                fields.encode(on, out);
                parent.encode(on, out);
            }
            Self::StopActivity { id } => {
                put_number(STOP_ACTIVITY, out);
                id.encode(on, out);
            }
            Self::Result { id, kind, fields } => {
                put_number(RESULT, out);
                id.encode(on, out);
                kind.0.encode(on, out);
                fields.encode(on, out);
            }
        }
    }
}

/// What a server could not do, in its words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    /// How important it is.
    pub level: Verbosity,
    /// What happened; may have ANSI escapes and several lines.
    pub message: String,
    /// What it was doing, innermost last.
    pub traces: Vec<String>,
    /// Whether the client may not do it at all. nixci says so of control requests, by the error's name, which stock clients
    /// read and drop; nobody can say so before protocol 1.26.
    pub is_refusal: bool,
}

impl RemoteError {
    /// An error with nothing but a message.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            level: Verbosity::Error,
            message: message.into(),
            traces: Vec::new(),
            is_refusal: false,
        }
    }

    /// An error that says that the client may not do what it asked for.
    #[must_use]
    pub fn refusal(message: impl Into<String>) -> Self {
        Self {
            is_refusal: true,
            ..Self::new(message)
        }
    }
}

/// Everything that may arrive on the log channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Something is said.
    Log(LogMessage),
    /// The server wants at most so many bytes.
    Read(u64),
    /// The server has bytes for the operation's sink.
    Write(Bytes),
    /// The operation succeeded; its reply follows.
    Last,
    /// The operation failed; no reply follows.
    Error(RemoteError),
}

impl Incoming {
    /// The number in front of it.
    #[must_use]
    pub fn code(&self) -> u64 {
        match self {
            Self::Log(LogMessage::Next { .. }) => NEXT,
            Self::Log(LogMessage::StartActivity { .. }) => START_ACTIVITY,
            Self::Log(LogMessage::StopActivity { .. }) => STOP_ACTIVITY,
            Self::Log(LogMessage::Result { .. }) => RESULT,
            Self::Read(_) => READ,
            Self::Write(_) => WRITE,
            Self::Last => LAST,
            Self::Error(_) => ERROR,
        }
    }
}

impl Wire for Incoming {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        let code = u64::read(from).await?;
        Ok(match code {
            NEXT => Self::Log(LogMessage::Next {
                text: read(from).await?,
            }),
            START_ACTIVITY => Self::Log(LogMessage::StartActivity {
                id: read(from).await?,
                level: read(from).await?,
                kind: ActivityType(read(from).await?),
                text: read(from).await?,
                fields: read(from).await?,
                parent: read(from).await?,
            }),
            STOP_ACTIVITY => Self::Log(LogMessage::StopActivity { id: read(from).await? }),
            RESULT => Self::Log(LogMessage::Result {
                id: read(from).await?,
                kind: ResultType(read(from).await?),
                fields: read(from).await?,
            }),
            READ => Self::Read(read(from).await?),
            WRITE => Self::Write(read(from).await?),
            LAST => Self::Last,
            ERROR => Self::Error(read(from).await?),
            _ => return Err(WireError::LogMessage(code).into()),
        })
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        match self {
            Self::Log(message) => message.encode(on, out),
            Self::Read(wanted) => {
                put_number(READ, out);
                wanted.encode(on, out);
            }
            Self::Write(data) => {
                put_number(WRITE, out);
                data.encode(on, out);
            }
            Self::Last => put_number(LAST, out),
            Self::Error(error) => {
                put_number(ERROR, out);
                error.encode(on, out);
            }
        }
    }
}

impl Wire for RemoteError {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        if from.on().version < Version::STRUCTURED_ERRORS {
            let message = read_message(from).await?;
            let _status = u64::read(from).await?;
            return Ok(Self::new(message));
        }
        let word = String::read(from).await?;
        if word != ERROR_WORD {
            return Err(WireError::Word {
                expected: ERROR_WORD,
                found: word,
            }
            .into());
        }
        let level = read(from).await?;
        let name = String::read(from).await?;
        let message = read_message(from).await?;
        no_position(from).await?;
        let traces = Vec::<Trace>::read(from).await?;
        Ok(Self {
            level,
            message,
            traces: traces.into_iter().map(|trace| trace.0).collect(),
            is_refusal: name == REFUSAL_NAME,
        })
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        if on.version < Version::STRUCTURED_ERRORS {
            // Old clients print the text as it is, and require the exit status.
            put_string(format!("error: {}", self.message).as_bytes(), out);
            put_number(1, out);
            return;
        }
        put_string(ERROR_WORD.as_bytes(), out);
        self.level.encode(on, out);
        let name = if self.is_refusal { REFUSAL_NAME } else { ERROR_WORD };
        put_string(name.as_bytes(), out);
        put_string(self.message.as_bytes(), out);
        put_number(0, out);
        put_number(self.traces.len() as u64, out);
        for trace in &self.traces {
            put_number(0, out);
            put_string(trace.as_bytes(), out);
        }
    }
}

struct Trace(String);

impl Wire for Trace {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        no_position(from).await?;
        Ok(Self(read_message(from).await?))
    }

    fn encode(&self, _: &Negotiated, out: &mut BytesMut) {
        put_number(0, out);
        put_string(self.0.as_bytes(), out);
    }
}

/// Errors carry no positions over the wire; the word that says so must be 0.
async fn no_position<S: Source>(from: &mut S) -> Result<(), S::Error> {
    from.parse(|_, input| {
        let (rest, value) = number(input)?;
        if value == 0 {
            Ok((rest, ()))
        } else {
            Err(failure(WireError::Tag {
                what: "position of an error",
                value,
            }))
        }
    })
    .await
}

impl Wire for Field {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        match u64::read(from).await? {
            0 => Ok(Self::Int(read(from).await?)),
            1 => Ok(Self::Text(read(from).await?)),
            value => Err(WireError::Tag {
                what: "field type",
                value,
            }
            .into()),
        }
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        match self {
            Self::Int(value) => {
                put_number(0, out);
                value.encode(on, out);
            }
            Self::Text(text) => {
                put_number(1, out);
                text.encode(on, out);
            }
        }
    }
}
