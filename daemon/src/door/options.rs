//! What a client may set on the store behind the door.

use nixci_protocol::op::SetOptions;

/// Settings that harm nobody but who sets them.
const HARMLESS: [&str; 4] = ["timeout", "max-silent-time", "build-poll-interval", "connect-timeout"];

/// The client's options without what could change what others get: it keeps how it wants its own builds
/// run and its log told; of settings by name only harmless ones pass.
pub(super) fn filter(asked: &SetOptions) -> SetOptions {
    let mut options = asked.clone();
    options.overrides.retain(|name, _| HARMLESS.contains(&name.as_str()));
    // Kept failed builds are left on the store's disk for nobody.
    options.keep_failed = false;
    options
}
