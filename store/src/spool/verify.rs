//! Proof that content is what its path says: bytes in, a proof or a reason out. No file, no database.
//!
//! Paths of texts (every `.drv`), sources and fixed outputs are recomputed from their bytes. Any other path says
//! nothing about its content; it is taken only from a principal that is trusted with that.

use std::collections::BTreeSet;

use bytes::Bytes;
use nixci_protocol::io::{NarError, NarScanner};
use nixci_protocol::types::{
    AddMethod, ContentAddress, ContentAddressMethod, Hash, HashAlgo, HashModulo, MakePathError, NarHash, PathInfo,
    StoreDir, StorePath, make_content_addressed_path,
};
use sha2::{Digest as _, Sha256, Sha512};

use super::file_nar::FileNar;
use super::large::LargeFile;

/// Who vouches for content whose path does not prove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// A principal that may add anything.
    Trusted,
    /// Nobody: the path must prove the content.
    Untrusted,
}

/// Why content was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// More or fewer bytes than promised.
    #[error("the NAR of {path} has {got} bytes, and {expected} were promised")]
    Size {
        /// The object.
        path: StorePath,
        /// Bytes that came.
        got: u64,
        /// Bytes that were promised.
        expected: u64,
    },
    /// Other bytes than promised.
    #[error("the NAR of {path} has hash {got}, and {expected} was promised")]
    NarHash {
        /// The object.
        path: StorePath,
        /// The hash of what came.
        got: NarHash,
        /// The hash that was promised.
        expected: NarHash,
    },
    /// The bytes have the hash that was promised and are no NAR, so that no store could take them.
    #[error("the NAR of {path} is not one")]
    Grammar {
        /// The object.
        path: StorePath,
        /// What is wrong with it.
        #[source]
        source: Box<NarError>,
    },
    /// The NAR ends before its end, or goes on after it.
    #[error("the NAR of {path} has {size} bytes, and its grammar ends elsewhere")]
    End {
        /// The object.
        path: StorePath,
        /// Bytes that came.
        size: u64,
    },
    /// The content does not have the hash of the content address.
    #[error("the content of {path} has hash {got}, and its content address is {ca}")]
    Content {
        /// The object.
        path: StorePath,
        /// The hash of the content.
        got: Box<Hash>,
        /// The content address.
        ca: Box<ContentAddress>,
    },
    /// A text, or an object hashed as one file, that is something else.
    #[error("{path} is addressed as {ca}, and its NAR is not one plain file")]
    NotAFile {
        /// The object.
        path: StorePath,
        /// The content address.
        ca: Box<ContentAddress>,
    },
    /// The content belongs to another path.
    #[error("the content of {path} belongs to {computed}: the path, its references or its content address are wrong")]
    Path {
        /// The path that was given.
        path: StorePath,
        /// The path that follows from the content.
        computed: StorePath,
    },
    /// A path of that kind cannot exist.
    #[error("{path} cannot be a store object")]
    Kind {
        /// The path that was given.
        path: StorePath,
        /// Why not.
        #[source]
        source: Box<MakePathError>,
    },
    /// Nothing proves the content.
    #[error("{path} carries no proof of its content: upload it as a user that is trusted, or content-addressed")]
    Unproven {
        /// The object.
        path: StorePath,
    },
    /// A way of addressing that is not supported.
    #[error("{name:?} is to be added as {how}, which is not supported: use sha256 or sha512 of a file or a NAR")]
    UnsupportedMethod {
        /// The object's name.
        name: String,
        /// The method.
        how: AddMethod,
    },
    /// Content that cannot have a path of the kind that was asked for.
    #[error("{name:?} cannot be a store object")]
    Unaddressable {
        /// The object's name.
        name: String,
        /// Why not.
        #[source]
        source: Box<MakePathError>,
    },
    /// A way of addressing that cannot be checked here.
    #[error("{path} is addressed as {ca}, which is not supported: use sha256 or sha512 of a file or a NAR")]
    Unsupported {
        /// The object.
        path: StorePath,
        /// The content address.
        ca: Box<ContentAddress>,
    },
}

/// An object whose content was checked. Only this module makes one.
#[derive(Debug)]
pub struct Verified {
    info: PathInfo,
    content: Content,
}

/// Where the NAR of a verified object is.
#[derive(Debug)]
pub(super) enum Content {
    /// Here.
    Small(Bytes),
    /// In a file that is durable but not yet named.
    Large(LargeFile),
}

impl Verified {
    /// What is known of the object; `ultimate` is never set.
    #[must_use]
    pub fn info(&self) -> &PathInfo {
        &self.info
    }

    /// The bytes of an object that is one plain file, such as a `.drv`; none for anything else, and for large ones.
    #[must_use]
    pub fn file(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Small(nar) => FileNar::contents(nar),
            Content::Large(_) => None,
        }
    }

    pub(super) fn into_parts(self) -> (PathInfo, Content) {
        (self.info, self.content)
    }
}

/// Checks an object whose NAR is in memory.
pub fn verify(dir: &StoreDir, info: PathInfo, nar: Bytes, authority: Authority) -> Result<Verified, VerifyError> {
    let mut check = Check::new(dir.clone(), info, authority);
    check.push(&nar);
    let info = check.finish()?;
    Ok(Verified {
        info,
        content: Content::Small(nar),
    })
}

/// A check that takes the NAR in pieces.
#[derive(Debug)]
pub(super) struct Check {
    dir: StoreDir,
    info: PathInfo,
    authority: Authority,
    size: u64,
    nar: Sha256,
    content: ContentHash,
    grammar: Result<NarScanner, NarError>,
}

/// The second hash, where the content address needs one.
#[derive(Debug)]
enum ContentHash {
    /// There is no content address, or it cannot be checked.
    None,
    /// It is the hash of the NAR itself.
    Nar,
    Nar512(Sha512),
    Modulo(HashModulo),
    File256(FileNar, Sha256),
    File512(FileNar, Sha512),
}

impl ContentHash {
    fn new(info: &PathInfo) -> Self {
        let Some(ca) = info.info.ca else {
            return Self::None;
        };
        let refers_to_itself = info.info.references.contains(&info.path);
        match (ca.method, ca.hash.algo()) {
            (ContentAddressMethod::Nar, HashAlgo::Sha256) if refers_to_itself => {
                Self::Modulo(HashModulo::new(info.path.digest()))
            }
            (ContentAddressMethod::Nar, HashAlgo::Sha256) => Self::Nar,
            (ContentAddressMethod::Nar, HashAlgo::Sha512) => Self::Nar512(Sha512::new()),
            (ContentAddressMethod::Text | ContentAddressMethod::Flat, HashAlgo::Sha256) => {
                Self::File256(FileNar::default(), Sha256::new())
            }
            (ContentAddressMethod::Flat, HashAlgo::Sha512) => Self::File512(FileNar::default(), Sha512::new()),
            (ContentAddressMethod::Git, _)
            | (ContentAddressMethod::Text, HashAlgo::Sha512)
            | (_, HashAlgo::Md5 | HashAlgo::Sha1) => Self::None,
        }
    }
}

impl Check {
    pub(super) fn new(dir: StoreDir, info: PathInfo, authority: Authority) -> Self {
        Self {
            dir,
            content: ContentHash::new(&info),
            info,
            authority,
            size: 0,
            nar: Sha256::new(),
            grammar: Ok(NarScanner::new()),
        }
    }

    /// Takes the next bytes of the NAR.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.nar.update(bytes);
        // What comes after the end of the NAR is seen by the size alone.
        if let Ok(scanner) = &mut self.grammar
            && let Err(error) = scanner.push(bytes)
        {
            self.grammar = Err(error);
        }
        match &mut self.content {
            ContentHash::None | ContentHash::Nar => {}
            ContentHash::Nar512(hash) => hash.update(bytes),
            ContentHash::Modulo(hash) => hash.update(bytes),
            ContentHash::File256(file, hash) => file.push(bytes, |data| hash.update(data)),
            ContentHash::File512(file, hash) => file.push(bytes, |data| hash.update(data)),
        }
    }

    /// The proof for a large object whose bytes were pushed here and written there.
    pub(super) fn finish_large(self, file: LargeFile) -> Result<Verified, VerifyError> {
        let info = self.finish()?;
        Ok(Verified {
            info,
            content: Content::Large(file),
        })
    }

    fn finish(self) -> Result<PathInfo, VerifyError> {
        let Self { dir, mut info, .. } = self;
        let path = || info.path.clone();
        if self.size != info.info.nar_size {
            return Err(VerifyError::Size {
                path: path(),
                got: self.size,
                expected: info.info.nar_size,
            });
        }
        let nar = NarHash(self.nar.finalize().into());
        if nar != info.info.nar_hash {
            return Err(VerifyError::NarHash {
                path: path(),
                got: nar,
                expected: info.info.nar_hash,
            });
        }
        match self.grammar {
            Ok(scanner) if scanner.is_done() && scanner.offset() == self.size => {}
            Ok(_) => {
                return Err(VerifyError::End {
                    path: path(),
                    size: self.size,
                });
            }
            Err(error) => {
                return Err(VerifyError::Grammar {
                    path: path(),
                    source: Box::new(error),
                });
            }
        }
        let proven = match info.info.ca {
            None => false,
            Some(ca) => match content_hash(self.content, nar, &info.path, ca)? {
                None if self.authority == Authority::Trusted => false,
                None => {
                    return Err(VerifyError::Unsupported {
                        path: path(),
                        ca: ca.into(),
                    });
                }
                Some(got) if got != ca.hash => {
                    return Err(VerifyError::Content {
                        path: path(),
                        got: got.into(),
                        ca: ca.into(),
                    });
                }
                Some(_) => {
                    check_path(&dir, &info, &ca)?;
                    true
                }
            },
        };
        if !proven && self.authority == Authority::Untrusted {
            return Err(VerifyError::Unproven { path: path() });
        }
        // It is the privilege of the store that built a path.
        info.info.ultimate = false;
        Ok(info)
    }
}

fn content_hash(
    content: ContentHash,
    nar: NarHash,
    path: &StorePath,
    ca: ContentAddress,
) -> Result<Option<Hash>, VerifyError> {
    let not_a_file = || VerifyError::NotAFile {
        path: path.clone(),
        ca: ca.into(),
    };
    Ok(match content {
        ContentHash::None => None,
        ContentHash::Nar => Some(nar.into()),
        ContentHash::Nar512(hash) => Hash::from_bytes(HashAlgo::Sha512, &hash.finalize()),
        ContentHash::Modulo(hash) => Some(hash.finish()),
        ContentHash::File256(file, hash) if file.is_whole() => Some(Hash::from_sha256(hash.finalize().into())),
        ContentHash::File512(file, hash) if file.is_whole() => Hash::from_bytes(HashAlgo::Sha512, &hash.finalize()),
        ContentHash::File256(..) | ContentHash::File512(..) => return Err(not_a_file()),
    })
}

fn check_path(dir: &StoreDir, info: &PathInfo, ca: &ContentAddress) -> Result<(), VerifyError> {
    let refers_to_itself = info.info.references.contains(&info.path);
    let computed = if refers_to_itself {
        let others: BTreeSet<StorePath> = info
            .info
            .references
            .iter()
            .filter(|path| **path != info.path)
            .cloned()
            .collect();
        make_content_addressed_path(dir, info.path.name(), ca, &others, true)
    } else {
        make_content_addressed_path(dir, info.path.name(), ca, &info.info.references, false)
    };
    match computed {
        Ok(computed) if computed == info.path => Ok(()),
        Ok(computed) => Err(VerifyError::Path {
            path: info.path.clone(),
            computed,
        }),
        Err(source) => Err(VerifyError::Kind {
            path: info.path.clone(),
            source: source.into(),
        }),
    }
}
