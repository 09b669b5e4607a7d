//! Who we are to a daemon that is reached over HTTPS.

mod credentials;

pub(crate) use credentials::Credentials;
