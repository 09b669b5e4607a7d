//! The stores builds run on.

use nixci_protocol::nixci::control::StoreStatus;

use super::{BAD, DIM, GOOD, ansi, paint};

/// A line per store, and a second one for what is wrong with it.
pub(crate) fn stores(stores: &[StoreStatus]) -> String {
    let mut text = String::new();
    for store in stores {
        let (glyph, style) = if store.error.is_none() {
            ("✓", GOOD)
        } else {
            ("✕", BAD)
        };
        let mut facts = vec![store.uri.clone()];
        facts.extend(store.version.as_ref().map(|version| format!("nix {version}")));
        facts.extend(store.protocol.as_ref().map(|protocol| format!("protocol {protocol}")));
        facts.push(format!("{} of {} slots busy", store.running, store.slots));
        text.push_str(&format!(
            "{} store {}  {}\n",
            paint(style, glyph),
            store.name,
            paint(DIM, facts.join(" · "))
        ));
        if let Some(error) = &store.error {
            text.push_str(&format!("    {}\n", ansi::plain(error)));
        }
    }
    text
}
