use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::StorePathError;
use super::store_path::check_name;

/// The name of a derivation's output, such as `out` or `dev`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutputName(Arc<str>);

impl OutputName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for OutputName {
    /// `out`.
    fn default() -> Self {
        Self("out".into())
    }
}

impl FromStr for OutputName {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_name(text)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for OutputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OutputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
