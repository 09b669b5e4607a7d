//! Reading a log, finished or running.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::Stream;
use tokio::sync::watch;

use super::entry::{Entry, Written, first};
use super::frame::{self, Found};
use super::live::Live;
use super::{Error, blocking, open};

/// What to do at the end of what a running attempt has printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// Stop there.
    End,
    /// Wait for more.
    Wait,
}

/// Reads the entries of one log in order, holding one frame at a time.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    live: Option<(Arc<Live>, watch::Receiver<()>)>,
    at: At,
    file: Option<Arc<File>>,
    /// Where the next frame begins.
    file_at: u64,
    /// Where the next entry to fetch begins, in bytes of entries from the beginning of the log.
    position: u64,
    /// The position of the frame at `file_at`.
    frame_position: u64,
    /// Entries that were fetched, and how many bytes of them were given out.
    fetched: Vec<u8>,
    given: usize,
    /// There was an entry, so that a file must say its end.
    any: bool,
    /// Nothing follows.
    over: bool,
}

/// What one look for more entries came to.
enum Look {
    Fetched,
    Frame,
    CaughtUp,
    Ended,
}

impl Follow {
    pub(super) fn new(path: PathBuf, live: Option<Arc<Live>>, at: At) -> Self {
        let live = live.map(|live| {
            let changes = live.changes();
            (live, changes)
        });
        Self {
            path,
            live,
            at,
            file: None,
            file_at: 0,
            position: 0,
            frame_position: 0,
            fetched: Vec::new(),
            given: 0,
            any: false,
            over: false,
        }
    }

    /// The next entry; none at the end. Nothing is lost when the call is cancelled.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            if let Some((written, bytes)) = first(&self.fetched[self.given..]) {
                self.given += bytes;
                match written {
                    Written::Entry(entry) => {
                        self.any = true;
                        return Ok(Some(entry));
                    }
                    Written::End => {
                        self.over = true;
                        return Ok(None);
                    }
                }
            }
            if self.over {
                return Ok(None);
            }
            match self.look() {
                Look::Fetched => {}
                Look::Frame => {
                    if !self.fetch_frame().await? {
                        self.over = true;
                        return Ok(Some(Entry::Broken));
                    }
                }
                Look::CaughtUp => match (&mut self.live, self.at) {
                    (Some((_, changes)), At::Wait) => {
                        // An error means that the writer is gone, and then it has said so.
                        let _ = changes.changed().await;
                    }
                    (Some(_), At::End) | (None, At::End | At::Wait) => self.over = true,
                },
                Look::Ended => {
                    self.over = true;
                    // It ended, and not in order: its writer was dropped.
                    return Ok(self.any.then_some(Entry::Broken));
                }
            }
        }
    }

    /// The entries as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Entry, Error>> + Send {
        futures_util::stream::try_unfold(self, |mut this| async move {
            Ok(this.next().await?.map(|entry| (entry, this)))
        })
    }

    /// Looks for what follows the entries that were given out; fetches it if it is in memory.
    fn look(&mut self) -> Look {
        let Some((live, changes)) = &mut self.live else {
            return Look::Frame;
        };
        // What is changed after this wakes the wait that may follow.
        changes.mark_unchanged();
        let state = live.state();
        if self.file_at < state.file_bytes {
            return Look::Frame;
        }
        // Lines that could not be written are in no frame: go on after them.
        self.position = self.position.max(state.written);
        self.frame_position = state.written;
        let from = (self.position - state.written) as usize;
        if from < state.waiting.len() {
            self.fetched.clear();
            self.fetched.extend_from_slice(&state.waiting[from..]);
            self.given = 0;
            self.position = state.written + state.waiting.len() as u64;
            Look::Fetched
        } else if state.ended {
            Look::Ended
        } else {
            Look::CaughtUp
        }
    }

    /// Fetches the frame at `file_at`, without what was given out from memory already. False where the log is broken.
    async fn fetch_frame(&mut self) -> Result<bool, Error> {
        let (file, at) = (self.file.clone(), self.file_at);
        let path = self.path.clone();
        let (file, found) = blocking(move || {
            read_frame(file, &path, at).map_err(|source| Error {
                doing: "read the log",
                path,
                source,
            })
        })
        .await?;
        self.file = file;
        match found {
            None if !self.any && self.file_at == 0 && self.file.is_none() => {
                // No file: nothing was printed.
                self.over = true;
                Ok(true)
            }
            None => Ok(false),
            Some((content, next)) => {
                let given_before = self.position.saturating_sub(self.frame_position) as usize;
                self.frame_position += content.len() as u64;
                self.position = self.position.max(self.frame_position);
                self.fetched = content;
                self.given = given_before.min(self.fetched.len());
                self.file_at = next;
                Ok(true)
            }
        }
    }
}

/// The content of a frame and where the next one begins; none where there is no whole one.
#[expect(clippy::type_complexity, reason = "it is taken apart where it is called, once")]
fn read_frame(
    file: Option<Arc<File>>,
    path: &Path,
    at: u64,
) -> io::Result<(Option<Arc<File>>, Option<(Vec<u8>, u64)>)> {
    let file = match file {
        Some(file) => file,
        None => match open(path)? {
            Some(file) => Arc::new(file),
            None => return Ok((None, None)),
        },
    };
    let content = match frame::find(&file, at)? {
        Found::Frame(place) => frame::unpack(&file, place)?.map(|content| (content, place.end())),
        Found::End | Found::Broken => None,
    };
    Ok((Some(file), content))
}

/// The last lines up to now. Blocks.
pub(super) fn tail(path: &Path, live: Option<&Live>, count: usize) -> io::Result<Vec<String>> {
    let (waiting, file_bytes) = match live {
        Some(live) => {
            let state = live.state();
            (state.waiting.clone(), Some(state.file_bytes))
        }
        None => (Vec::new(), None),
    };
    let mut lines = VecDeque::new();
    prepend(&mut lines, &waiting, count);
    if lines.len() < count
        && let Some(file) = open(path)?
    {
        let mut places = Vec::new();
        let mut at = 0;
        while file_bytes.is_none_or(|end| at < end)
            && let Found::Frame(place) = frame::find(&file, at)?
        {
            places.push(place);
            at = place.end();
        }
        for place in places.into_iter().rev() {
            if lines.len() >= count {
                break;
            }
            if place.lines > 0
                && let Some(content) = frame::unpack(&file, place)?
            {
                prepend(&mut lines, &content, count);
            }
        }
    }
    Ok(lines.into())
}

/// Puts the last lines of some entries in front of those that follow them.
fn prepend(lines: &mut VecDeque<String>, content: &[u8], count: usize) {
    let mut here = VecDeque::new();
    let mut at = 0;
    while let Some((written, bytes)) = first(&content[at..]) {
        at += bytes;
        if let Written::Entry(Entry::Line(line)) = written {
            here.push_back(line);
            if here.len() + lines.len() > count {
                here.pop_front();
            }
        }
    }
    here.append(lines);
    *lines = here;
}
