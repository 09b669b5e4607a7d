//! The one provider of cryptography.

use std::sync::Once;

/// Makes aws-lc-rs what rustls and jsonwebtoken use. Whoever comes first does it; the others find it done.
pub fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that somebody has installed one before, which can only be the same.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    });
}
