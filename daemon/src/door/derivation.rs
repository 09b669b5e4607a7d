//! Derivations that clients send whole, as Nix does with its remote builders (`builders = ssh-ng://…`).
//!
//! The derivation need not be in any store: its inputs are paths, in the spool or on the store, and so it is a build
//! of its own, shared with whoever wants the derivation of the same path. Its word is its client's: of a trusted
//! client it is believed. Of others only derivations whose outputs prove themselves by their content are taken, under
//! a path that is computed anew, passed on, and not recorded as what became of the derivation they say it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use nixci_protocol::op;
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::{BasicDerivation, BuildMode, DrvPath, Hash, StoreDir, StorePath, make_text_path};
use nixci_store::index::derivations::{self, OutputRow};

use super::answer;
use super::builds::{self, Answered};
use super::session::{Session, refuse};
use super::wait::Waiting;
use super::{pass, upstream::Relay};
use crate::config::Writes;
use crate::request::{Asked, Builds, Request};
use crate::scheduler::Root;
use crate::submit::project_number;

/// Stock's words.
const REFUSED: &str = "you are not privileged to build input-addressed derivations";

pub(super) async fn build(
    session: &mut Session,
    request: op::BuildDerivation,
    exchange: &mut Exchange<'_>,
) -> Answered {
    builds::may(session, request.mode)?;
    if !session.who.is_trusted() {
        return untrusted(session, request, exchange).await;
    }
    match request.mode {
        BuildMode::Normal => scheduled(session, request, exchange).await,
        BuildMode::Repair | BuildMode::Check => {
            forward_inputs(session, &request).await?;
            session.upstream.ask(&request, exchange).await
        }
    }
}

async fn forward_inputs(session: &mut Session, request: &op::BuildDerivation) -> Result<(), HandlerError> {
    let spool = &session.ci.core.spool;
    let inputs = request.derivation.input_srcs.iter().filter(|path| spool.contains(path));
    let inputs = inputs.cloned().collect();
    session.upstream.forward(inputs).await
}

/// Outputs that prove themselves by their content are taken from anybody.
async fn untrusted(session: &mut Session, mut request: op::BuildDerivation, exchange: &mut Exchange<'_>) -> Answered {
    let outputs = request.derivation.outputs.values();
    if request.derivation.outputs.is_empty() || outputs.into_iter().any(|output| output.hash_algo.is_empty()) {
        return Err(HandlerError::new(REFUSED));
    }
    forward_inputs(session, &request).await?;
    let dir = &session.ci.core.config.store_dir;
    request.drv = path_of(dir, request.drv.path().name(), &request.derivation)
        .ok_or_else(|| HandlerError::new("the derivation has a name that no derivation can have"))?;
    let connection = session.upstream.connection().await?;
    let result = connection.call(&request, &mut Relay(exchange)).await;
    Ok(result.map_err(|error| refuse(&error))?.into())
}

async fn scheduled(session: &mut Session, request: op::BuildDerivation, exchange: &mut Exchange<'_>) -> Answered {
    let core = session.ci.core.clone();
    builds::warn_of_limits(session, exchange).await;
    let path = request.drv.path().clone();
    let outputs: Vec<OutputRow> = request
        .derivation
        .outputs
        .iter()
        .map(|(name, output)| OutputRow {
            name: name.to_string(),
            path: output.path.clone(),
        })
        .collect();
    let drv = core
        .index
        .write(move |tx| derivations::sent(tx, &path, &outputs))
        .await
        .map_err(|error| refuse(&error))?;
    let root = Root {
        drv,
        system: String::from_utf8_lossy(&request.derivation.platform).into(),
        features: features(&request.derivation).into(),
    };
    let on = match core.config.listen.writes {
        Writes::Spool if core.stores.len() > 1 => None,
        Writes::Spool | Writes::Through => Some(session.upstream.store()?.id),
    };
    let wish = Request::open(&core, Asked::Derivation(Arc::new(request)), Some(drv));
    let builds = Builds::new(core.config.store_dir.clone(), [drv], false);
    let project = project_number(&format!("principal {}", session.who.name()));
    core.scheduler
        .requested(wish.id(), project, vec![root], on)
        .await
        .map_err(|error| refuse(&error))?;
    let mut waiting = Waiting::begin(&core, wish, builds, exchange).await;
    let outcome = waiting.wait(exchange).await;
    waiting.end(exchange).await;
    outcome?;
    let result = waiting.builds.result(drv).cloned().unwrap_or_else(answer::there);
    if result.status.is_success() {
        let made: BTreeSet<StorePath> = result.built_outputs.paths().map(|(_, path)| path.clone()).collect();
        pass::protect(session, waiting.builds.store(drv), made).await?;
    }
    Ok(result.into())
}

/// `requiredSystemFeatures`: words in the environment, or a list in structured attributes.
fn features(derivation: &BasicDerivation) -> Vec<String> {
    const KEY: &str = "requiredSystemFeatures";
    if let Some(json) = derivation.env.get(&b"__json"[..]) {
        let attributes: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
        let list = attributes.get(KEY).and_then(serde_json::Value::as_array);
        let words = list.into_iter().flatten().filter_map(serde_json::Value::as_str);
        return words.map(str::to_owned).collect();
    }
    let words = derivation
        .env
        .get(KEY.as_bytes())
        .map(|words| String::from_utf8_lossy(words));
    let words = words.as_deref().unwrap_or_default();
    words.split_ascii_whitespace().map(str::to_owned).collect()
}

/// The path of a derivation without input derivations, from its content.
fn path_of(dir: &StoreDir, name: &str, derivation: &BasicDerivation) -> Option<DrvPath> {
    let mut text = BytesMut::new();
    text.extend_from_slice(b"Derive(");
    list(&mut text, &derivation.outputs, |text, (name, output)| {
        let path = output
            .path
            .as_ref()
            .map(|path| dir.display(path).to_string())
            .unwrap_or_default();
        let fields = [name.to_string(), path, output.hash_algo.clone(), output.hash.clone()];
        tuple(text, fields.iter().map(String::as_bytes));
    });
    text.extend_from_slice(b",[],");
    list(&mut text, &derivation.input_srcs, |text, path| {
        quoted(text, dir.display(path).to_string().as_bytes());
    });
    for word in [&derivation.platform, &derivation.builder] {
        text.extend_from_slice(b",");
        quoted(&mut text, word);
    }
    text.extend_from_slice(b",");
    list(&mut text, &derivation.args, |text, word| quoted(text, word));
    text.extend_from_slice(b",");
    list(&mut text, &derivation.env, |text, (name, value)| {
        tuple(text, [&name[..], &value[..]].into_iter());
    });
    text.extend_from_slice(b")");
    let path = make_text_path(dir, name, &Hash::sha256_of(&text), &derivation.input_srcs).ok()?;
    DrvPath::try_from(path).ok()
}

fn list<T>(text: &mut BytesMut, items: impl IntoIterator<Item = T>, mut put: impl FnMut(&mut BytesMut, T)) {
    text.extend_from_slice(b"[");
    for (nth, item) in items.into_iter().enumerate() {
        if nth > 0 {
            text.extend_from_slice(b",");
        }
        put(text, item);
    }
    text.extend_from_slice(b"]");
}

fn tuple<'w>(text: &mut BytesMut, words: impl Iterator<Item = &'w [u8]>) {
    text.extend_from_slice(b"(");
    for (nth, word) in words.enumerate() {
        if nth > 0 {
            text.extend_from_slice(b",");
        }
        quoted(text, word);
    }
    text.extend_from_slice(b")");
}

fn quoted(text: &mut BytesMut, word: &[u8]) {
    text.extend_from_slice(b"\"");
    for byte in word {
        match byte {
            b'"' => text.extend_from_slice(b"\\\""),
            b'\\' => text.extend_from_slice(b"\\\\"),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\r' => text.extend_from_slice(b"\\r"),
            b'\t' => text.extend_from_slice(b"\\t"),
            other => text.extend_from_slice(&[*other]),
        }
    }
    text.extend_from_slice(b"\"");
}
