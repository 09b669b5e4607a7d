//! A client that costs next to nothing: blocking reads and writes of bytes that were encoded before.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use bytes::{Buf, BytesMut};
use nixci_protocol::handshake::{ClientHandshake, Offer};
use nixci_protocol::op::Operation;
use nixci_protocol::types::StoreDir;
use nixci_protocol::version::Version;
use nixci_protocol::wire::{Negotiated, Wire, WireError, decode};

use crate::Outcome;

/// The word that ends the log before a reply.
pub(crate) const LAST: u64 = 0x616c_7473;

/// A connection after its handshake.
pub(crate) struct Raw {
    stream: UnixStream,
    scratch: Vec<u8>,
}

/// What is spoken with both.
pub(crate) fn agreed() -> Negotiated {
    Negotiated::plain(Version::MAX, StoreDir::default())
}

/// A request as bytes.
pub(crate) fn encoded<R: Operation>(request: &R) -> Vec<u8> {
    let mut out = BytesMut::new();
    u64::from(R::OP).encode(&agreed(), &mut out);
    request.encode(&agreed(), &mut out);
    out.to_vec()
}

impl Raw {
    pub(crate) fn open(socket: &Path) -> Outcome<Self> {
        let mut stream = UnixStream::connect(socket)?;
        let mut out = BytesMut::new();
        let mut machine = ClientHandshake::start(Offer::default(), &mut out);
        let mut buffer = BytesMut::new();
        loop {
            stream.write_all(&out.split())?;
            let mut piece = [0; 4096];
            let taken = stream.read(&mut piece)?;
            if taken == 0 {
                return Err("the daemon hung up in the handshake".into());
            }
            buffer.extend_from_slice(&piece[..taken]);
            let progress = machine.receive(&buffer, &mut out)?;
            buffer.advance(progress.consumed);
            if progress.done.is_some() {
                break;
            }
        }
        stream.write_all(&out)?;
        let mut word = [0; 8];
        let here = buffer.len().min(8);
        word[..here].copy_from_slice(&buffer[..here]);
        stream.read_exact(&mut word[here..])?;
        if u64::from_le_bytes(word) != LAST {
            return Err("the daemon does not serve".into());
        }
        Ok(Self {
            stream,
            scratch: vec![0; 1 << 20],
        })
    }

    pub(crate) fn send(&mut self, request: &[u8]) -> Outcome<()> {
        Ok(self.stream.write_all(request)?)
    }

    /// Reads an answer that must be these bytes.
    pub(crate) fn expect(&mut self, reply: &[u8]) -> Outcome<()> {
        let mut rest = reply;
        while !rest.is_empty() {
            let room = rest.len().min(self.scratch.len());
            let taken = self.stream.read(&mut self.scratch[..room])?;
            if taken == 0 {
                return Err("the daemon hung up".into());
            }
            let (expected, behind) = rest.split_at(taken);
            if &self.scratch[..taken] != expected {
                return Err("the two daemons answer differently".into());
            }
            rest = behind;
        }
        Ok(())
    }

    /// Asks and reads an answer that must be these bytes.
    pub(crate) fn ask(&mut self, request: &[u8], reply: &[u8]) -> Outcome<()> {
        self.send(request)?;
        self.expect(reply)
    }

    /// Asks, and returns the answer with its bytes.
    pub(crate) fn learn<T: Wire>(&mut self, request: &[u8]) -> Outcome<(T, Vec<u8>)> {
        self.send(request)?;
        let mut buffer = Vec::new();
        loop {
            let taken = self.stream.read(&mut self.scratch)?;
            if taken == 0 {
                return Err("the daemon hung up".into());
            }
            buffer.extend_from_slice(&self.scratch[..taken]);
            match decode::<(u64, T)>(&agreed(), &buffer) {
                Ok(((LAST, value), [])) => return Ok((value, buffer)),
                Ok(_) => return Err("the daemon says something before or behind its answer".into()),
                Err(WireError::Incomplete) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks, and reads the end of the log and so many bytes.
    pub(crate) fn all(&mut self, request: &[u8], size: u64) -> Outcome<Vec<u8>> {
        self.send(request)?;
        let mut bytes = vec![0; usize::try_from(size)? + 8];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads the end of the log and so many bytes of a NAR.
    pub(crate) fn nar(&mut self, request: &[u8], size: u64) -> Outcome<()> {
        self.send(request)?;
        self.expect(&LAST.to_le_bytes())?;
        let mut left = size;
        while left > 0 {
            let room = usize::try_from(left)?.min(self.scratch.len());
            let taken = self.stream.read(&mut self.scratch[..room])?;
            if taken == 0 {
                return Err("the daemon hung up in the middle of a NAR".into());
            }
            left -= taken as u64;
        }
        Ok(())
    }
}
