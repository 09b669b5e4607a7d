//! Proof that content is what its path says: bytes in, a proof or a reason out. No file, no database.
//!
//! Paths of texts (every `.drv`), sources and fixed outputs are recomputed from their bytes. Any other path says
//! nothing about its content; it is taken only where a trusted key has signed for the hash, size and references that
//! were found, or from a principal that is trusted with that.

use std::collections::BTreeSet;

use bytes::Bytes;
use nixci_protocol::io::{NarError, NarScanner};
use nixci_protocol::types::{
    AddMethod, ContentAddress, ContentAddressMethod, Hash, HashAlgo, HashModulo, MakePathError, NarHash, PathInfo,
    StoreDir, StorePath, make_content_addressed_path,
};
use sha2::{Digest as _, Sha256};

use super::file_nar::FileNar;
use super::hasher::Hasher;
use super::large::LargeFile;
use super::rules::{MAX_SIGNATURES, Rules};

/// Who vouches for content whose path does not prove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// A principal that may add anything.
    Trusted,
    /// Nobody: the path, or a signature by a trusted key, must prove the content.
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
    #[error(
        "cannot add path '{path}' because it lacks a signature by a trusted key: {found}; name the key in \
         `trusted_public_keys` ([keys] of the daemon's configuration), or copy as a trusted user with --no-check-sigs"
    )]
    Unsigned {
        /// The object, with its store directory.
        path: String,
        /// What there is in place of such a signature.
        found: String,
    },
    /// More signatures than anybody needs.
    #[error("{path} has {count} signatures; more than {MAX_SIGNATURES} are refused")]
    Signatures {
        /// The object.
        path: StorePath,
        /// How many there are.
        count: usize,
    },
    /// A way of addressing that is not supported.
    #[error("{name:?} is to be added as {how}, which is not supported: add it by the hash of the file or the NAR")]
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
    #[error(
        "{path} is addressed as {ca}, which cannot be checked: address it by the hash of the file or the NAR, or sign it"
    )]
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
pub fn verify(rules: &Rules, info: PathInfo, nar: Bytes, authority: Authority) -> Result<Verified, VerifyError> {
    let mut check = Check::new(rules.clone(), info, authority);
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
    rules: Rules,
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
    NarBy(Hasher),
    Modulo(HashModulo),
    File(FileNar, Hasher),
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
            (ContentAddressMethod::Nar, algo) => Self::NarBy(Hasher::new(algo)),
            (ContentAddressMethod::Text, algo @ HashAlgo::Sha256) | (ContentAddressMethod::Flat, algo) => {
                Self::File(FileNar::default(), Hasher::new(algo))
            }
            (ContentAddressMethod::Git, _)
            | (ContentAddressMethod::Text, HashAlgo::Md5 | HashAlgo::Sha1 | HashAlgo::Sha512) => Self::None,
        }
    }
}

impl Check {
    pub(super) fn new(rules: Rules, info: PathInfo, authority: Authority) -> Self {
        Self {
            rules,
            content: ContentHash::new(&info),
            info,
            authority,
            size: 0,
            nar: Sha256::new(),
            grammar: Ok(NarScanner::new()),
        }
    }

    /// Why no bytes whatever could be taken, where that is so.
    pub(super) fn is_hopeless(&self) -> Result<(), VerifyError> {
        let count = self.info.info.signatures.len();
        if count > MAX_SIGNATURES {
            return Err(VerifyError::Signatures {
                path: self.info.path.clone(),
                count,
            });
        }
        match (&self.content, self.authority) {
            (ContentHash::None, Authority::Untrusted) => self.vouched(),
            (_, Authority::Trusted)
            | (
                ContentHash::Nar | ContentHash::NarBy(_) | ContentHash::Modulo(_) | ContentHash::File(..),
                Authority::Untrusted,
            ) => Ok(()),
        }
    }

    /// Whether somebody vouches for content that its path does not prove, if it is what its info says.
    fn vouched(&self) -> Result<(), VerifyError> {
        if self.authority == Authority::Trusted || self.rules.is_signed(&self.info) {
            return Ok(());
        }
        Err(match self.info.info.ca {
            Some(ca) => VerifyError::Unsupported {
                path: self.info.path.clone(),
                ca: ca.into(),
            },
            None => self.rules.unsigned(&self.info),
        })
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
            ContentHash::NarBy(hash) => hash.update(bytes),
            ContentHash::Modulo(hash) => hash.update(bytes),
            ContentHash::File(file, hash) => file.push(bytes, |data| hash.update(data)),
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

    fn finish(mut self) -> Result<PathInfo, VerifyError> {
        let path = || self.info.path.clone();
        if self.size != self.info.info.nar_size {
            return Err(VerifyError::Size {
                path: path(),
                got: self.size,
                expected: self.info.info.nar_size,
            });
        }
        let nar = NarHash(self.nar.finalize_reset().into());
        if nar != self.info.info.nar_hash {
            return Err(VerifyError::NarHash {
                path: path(),
                got: nar,
                expected: self.info.info.nar_hash,
            });
        }
        match &self.grammar {
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
                    source: Box::new(error.clone()),
                });
            }
        }
        let content = std::mem::replace(&mut self.content, ContentHash::None);
        let proven = match self.info.info.ca {
            None => false,
            Some(ca) => match content_hash(content, nar, &self.info.path, ca)? {
                None => false,
                Some(got) if got != ca.hash => {
                    return Err(VerifyError::Content {
                        path: path(),
                        got: got.into(),
                        ca: ca.into(),
                    });
                }
                Some(_) => {
                    check_path(&self.rules.store_dir, &self.info, &ca)?;
                    true
                }
            },
        };
        if !proven {
            self.vouched()?;
        }
        // It is the privilege of the store that built a path.
        self.info.info.ultimate = false;
        Ok(self.info)
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
        ContentHash::NarBy(hash) => hash.finish(),
        ContentHash::Modulo(hash) => Some(hash.finish()),
        ContentHash::File(file, hash) if file.is_whole() => hash.finish(),
        ContentHash::File(..) => return Err(not_a_file()),
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
