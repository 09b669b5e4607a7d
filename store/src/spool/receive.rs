//! Taking NARs from a stream, with memory that does not depend on their size.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use nixci_protocol::types::{
    AddMethod, ContentAddress, ContentAddressMethod, MakePathError, NarHash, PathInfo, StorePath, UnkeyedPathInfo,
    make_content_addressed_path,
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::blocking::{Work, blocking};
use super::error::{Error, Result};
use super::file_nar::FileNar;
use super::hasher::Hasher;
use super::verify::{Authority, Check, Verified, VerifyError, verify};
use super::{LARGE, Spool};

/// Bytes that are read at a time.
const CHUNK: usize = 64 * 1024;

impl Spool {
    /// Takes an object whose NAR follows on `nar`: reads exactly `nar_size` bytes and checks them. It counts once it
    /// is [added](Self::add).
    ///
    /// What could not be taken whatever its bytes are, as it lacks a signature, is refused before any is read. When the
    /// content is refused all bytes have been read; after any other error the stream is somewhere in the middle.
    pub async fn receive(
        &self,
        info: PathInfo,
        nar: &mut (impl AsyncRead + Send + Unpin),
        authority: Authority,
    ) -> Result<Verified> {
        let check = Check::new(self.rules.clone(), info.clone(), authority);
        check.is_hopeless()?;
        if info.info.nar_size < LARGE {
            let content = read_small(&info, nar).await?;
            return Ok(verify(&self.rules, info, content, authority)?);
        }
        let (path, size) = (info.path.clone(), info.info.nar_size);
        let folder = self.large.clone();
        let begun = blocking(move || Ok((check, folder.begin()?))).await?;
        let mut work = Work::new(begun, |(check, writing), bytes| {
            check.push(bytes);
            writing.push(bytes)
        });
        let sent = send(nar, &path, size, &mut work).await;
        let finished = work.finish().await;
        // A sender that failed leaves half a NAR; its own error says more than what comes of that.
        sent?;
        let (check, writing) = finished?;
        blocking(move || Ok(check.finish_large(writing.finish()?)?)).await
    }

    /// Takes content by the rules of Nix's `AddToStore`: its path follows from the name, the method and the references,
    /// which must not include the object itself. What is dumped is the file for texts and flat objects, and a NAR
    /// else; the stream is read to its end.
    pub async fn receive_dump(
        &self,
        name: &str,
        how: AddMethod,
        references: BTreeSet<StorePath>,
        dump: &mut (impl AsyncRead + Send + Unpin),
    ) -> Result<Verified> {
        let dumped = self.dump(name, dump).await?;
        let store_dir = self.store_dir().clone();
        let name = name.to_owned();
        let (info, dumped) = blocking(move || {
            let (info, dumped) = dumped.hash(&name, how)?;
            let UnkeyedPathInfo { ca: Some(ca), .. } = info else {
                return Err(Error::Stopped);
            };
            let path = make_content_addressed_path(&store_dir, &name, &ca, &references, false);
            let path = path.map_err(|source| unaddressable(&name, source))?;
            let info = PathInfo {
                path,
                info: UnkeyedPathInfo { references, ..info },
            };
            Ok((info, dumped))
        })
        .await?;
        let wrap = match how.method {
            ContentAddressMethod::Text | ContentAddressMethod::Flat => Some(dumped.size),
            ContentAddressMethod::Nar | ContentAddressMethod::Git => None,
        };
        let before = wrap.map_or_else(Vec::new, FileNar::before);
        let after = wrap.map_or_else(Vec::new, FileNar::after);
        let mut nar = AsyncReadExt::chain(before.as_slice(), dumped.into_reader()).chain(after.as_slice());
        self.receive(info, &mut nar, Authority::Untrusted).await
    }

    /// Keeps content of unknown size: in memory while it is small, else in a file that has no name.
    async fn dump(&self, name: &str, from: &mut (impl AsyncRead + Send + Unpin)) -> Result<Dumped> {
        let receiving = |source| Error::Receive {
            what: name.to_owned(),
            source,
        };
        let mut head = Vec::new();
        from.take(LARGE).read_to_end(&mut head).await.map_err(receiving)?;
        let mut size = head.len() as u64;
        if size < LARGE {
            return Ok(Dumped { head, file: None, size });
        }
        let folder = self.large.clone();
        let file = blocking(move || folder.scratch()).await?;
        let dir = self.large.clone();
        let mut work = Work::new(file, move |file, bytes| {
            let written = file.write_all(bytes);
            written.map_err(|error| Error::file("write a temporary file in", dir.dir(), error))
        });
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            let read = from.read_buf(&mut chunk).await.map_err(receiving)?;
            if read == 0 {
                break;
            }
            size += read as u64;
            work.push(chunk.freeze()).await?;
        }
        let mut file = work.finish().await?;
        let folder = self.large.clone();
        let file = blocking(move || {
            let sought = file.seek(SeekFrom::Start(0));
            sought.map_err(|error| Error::file("read a temporary file in", folder.dir(), error))?;
            Ok(file)
        });
        Ok(Dumped {
            head,
            file: Some(file.await?),
            size,
        })
    }
}

/// Content of a size that is known now.
struct Dumped {
    head: Vec<u8>,
    /// What follows the head.
    file: Option<File>,
    size: u64,
}

impl Dumped {
    /// Everything that follows from the content. Blocks.
    fn hash(mut self, name: &str, how: AddMethod) -> Result<(UnkeyedPathInfo, Self)> {
        let is_file = match how.method {
            ContentAddressMethod::Text | ContentAddressMethod::Flat => true,
            ContentAddressMethod::Nar => false,
            ContentAddressMethod::Git => return Err(unsupported(name, how)),
        };
        let mut nar = Sha256::new();
        let mut content = Hasher::new(how.algo);
        if is_file {
            nar.update(FileNar::before(self.size));
        }
        nar.update(&self.head);
        content.update(&self.head);
        if let Some(file) = &mut self.file {
            let reading = |source| Error::Receive {
                what: name.to_owned(),
                source,
            };
            let mut chunk = vec![0; CHUNK];
            loop {
                let read = file.read(&mut chunk).map_err(reading)?;
                if read == 0 {
                    break;
                }
                nar.update(&chunk[..read]);
                content.update(&chunk[..read]);
            }
            file.seek(SeekFrom::Start(0)).map_err(reading)?;
        }
        if is_file {
            nar.update(FileNar::after(self.size));
        }
        let nar_size = if is_file {
            FileNar::size(self.size)
        } else {
            Some(self.size)
        };
        let info = UnkeyedPathInfo {
            deriver: None,
            nar_hash: NarHash(nar.finalize().into()),
            references: BTreeSet::new(),
            registration_time: 0,
            nar_size: nar_size.ok_or_else(|| unsupported(name, how))?,
            ultimate: false,
            signatures: BTreeSet::new(),
            ca: Some(ContentAddress {
                method: how.method,
                hash: content.finish().ok_or_else(|| unsupported(name, how))?,
            }),
        };
        Ok((info, self))
    }

    fn into_reader(self) -> Pin<Box<dyn AsyncRead + Send>> {
        let head = std::io::Cursor::new(self.head);
        match self.file {
            None => Box::pin(head),
            Some(file) => Box::pin(AsyncReadExt::chain(head, tokio::fs::File::from_std(file))),
        }
    }
}

fn unsupported(name: &str, how: AddMethod) -> Error {
    Error::Verify(VerifyError::UnsupportedMethod {
        name: name.to_owned(),
        how,
    })
}

fn unaddressable(name: &str, source: MakePathError) -> Error {
    Error::Verify(VerifyError::Unaddressable {
        name: name.to_owned(),
        source: source.into(),
    })
}

async fn read_small(info: &PathInfo, nar: &mut (impl AsyncRead + Send + Unpin)) -> Result<Bytes> {
    let size = info.info.nar_size;
    let mut content = Vec::with_capacity(size as usize);
    let read = nar.take(size).read_to_end(&mut content).await;
    read.map_err(|source| Error::Receive {
        what: info.path.to_string(),
        source,
    })?;
    if (content.len() as u64) < size {
        return Err(short(&info.path, content.len() as u64, size));
    }
    Ok(content.into())
}

/// Reads a NAR of a known size, to the last byte of it.
async fn send<S: Send + 'static>(
    nar: &mut (impl AsyncRead + Send + Unpin),
    path: &StorePath,
    size: u64,
    work: &mut Work<S, impl FnMut(&mut S, &[u8]) -> Result<()> + Send + 'static>,
) -> Result<()> {
    let mut nar = nar.take(size);
    let mut got = 0;
    while got < size {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let read = nar.read_buf(&mut chunk).await.map_err(|source| Error::Receive {
            what: path.to_string(),
            source,
        })?;
        if read == 0 {
            return Err(short(path, got, size));
        }
        got += read as u64;
        work.push(chunk.freeze()).await?;
    }
    Ok(())
}

fn short(path: &StorePath, got: u64, expected: u64) -> Error {
    Error::Short {
        path: path.clone(),
        got,
        expected,
    }
}
