//! The nouns of Nix: valid by construction, without files or sockets.

mod build_result;
mod content_address;
mod derivation;
mod derived_path;
mod drv_path;
mod fingerprint;
mod hash;
mod hash_modulo;
mod key;
mod levels;
mod make_path;
pub mod nix32;
mod output_name;
mod path_info;
mod realisation;
mod signature;
mod store_dir;
mod store_path;

pub use build_result::{BuildMode, BuildResult, BuildStatus, BuiltOutputs, KeyedBuildResult};
pub use content_address::{AddMethod, ContentAddress, ContentAddressError, ContentAddressMethod};
pub use derivation::{BasicDerivation, DerivationOutput};
pub use derived_path::{DerivedPath, DerivedPathError, OutputsSpec, SingleDerivedPath};
pub use drv_path::{DrvPath, NotADerivation};
pub use fingerprint::fingerprint;
pub use hash::{Hash, HashAlgo, HashError, NarHash};
pub use hash_modulo::HashModulo;
pub use key::{KeyError, PublicKey, SecretKey};
pub use levels::{Trust, Verbosity};
pub use make_path::{MakePathError, make_content_addressed_path, make_fixed_path, make_source_path, make_text_path};
pub use output_name::OutputName;
pub use path_info::{PathInfo, SubstitutablePathInfo, UnkeyedPathInfo};
pub use realisation::{
    DrvOutput, DrvOutputError, DrvOutputKey, Realisation, RealisationError, RealisationSignatures, UnkeyedRealisation,
};
pub use signature::{Signature, SignatureError};
pub use store_dir::{StoreDir, StoreDirError, StorePathDisplay};
pub use store_path::{StorePath, StorePathError, check_name};
