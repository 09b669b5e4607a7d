//! No key, and no token of either kind, is in any log line at any level, in any error, or in what `Debug` prints.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use nixci_protocol::nixci::report::StatusState;
use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::keys;
use crate::server::Reply;
use crate::stand_in::StandIn;
use crate::world::{client, status};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_secret_is_said() {
    let lines = Lines::default();
    let writer = lines.clone();
    // Of everything, also of the crates that carry the tokens, and of those that log otherwise than by tracing.
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    // The clock is off, so that the App's token is refused once.
    let stand_in = StandIn::start(&keys.public, 7_200).await;
    let client = client(&stand_in.server.url, home.path(), &keys.pkcs1);
    let running = status(COMMIT, StatusState::Running);
    let mut shown = vec![format!("{:?}", client.send(&running).await.unwrap())];
    stand_in.state.made.fetch_add(1, Ordering::Relaxed);
    client.send(&running).await.unwrap();
    for reply in [
        Reply::json(403, &json!({"message": "no"})),
        Reply::json(500, &json!({"message": "no"})),
        Reply::json(422, &json!({"message": "no"})),
        Reply::json(201, &json!("nonsense")),
        Reply::Lost,
    ] {
        stand_in.will_reply(reply);
        let error = client.send(&running).await.unwrap_err();
        shown.push(format!("{error} {error:?}"));
    }
    stand_in.state.takes_tokens.store(false, Ordering::Relaxed);
    let error = client.send(&running).await.unwrap_err();
    shown.push(format!("{error} {error:?} {client:?} {client:#?}"));

    let said = String::from_utf8_lossy(&lines.0.lock().unwrap()).into_owned() + &shown.concat();
    assert!(said.contains("the clock of this machine is off"), "the capture works");
    assert!(
        said.contains("hyper_util") || said.contains("reqwest"),
        "also of the crates below"
    );
    let asked = stand_in.server.asked();
    let tokens: Vec<&str> = asked.iter().map(crate::server::Asked::bearer).collect();
    assert!(tokens.iter().any(|token| token.starts_with("eyJ")) && tokens.contains(&"ghs_secret1"));
    for token in tokens {
        assert!(!said.contains(token), "a token is said");
        // A part of it would be too much.
        assert!(!said.contains(&token[token.len() / 2..]), "half a token is said");
    }
    assert!(!said.contains("ghs_") && !said.contains("Bearer "));
    for line in keys.pkcs1.lines().filter(|line| !line.contains("-----")) {
        assert!(!said.contains(line), "the key is said");
    }
}
