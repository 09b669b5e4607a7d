//! Questions about paths that both know.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::Instant;

use nixci_protocol::op::{QueryPathInfo, QueryValidPaths};
use nixci_protocol::types::{StorePath, UnkeyedPathInfo};
use serde_json::Value;

use crate::raw::{Raw, encoded};
use crate::world::World;
use crate::{Outcome, Side, alternate, case};

/// Paths that are asked about one by one, out of the whole store.
const ASKED: usize = 20_000;
/// Requests on their way at once, where the client does not wait for each.
const WINDOW: usize = 64;

pub(crate) fn valid_paths(world: &World) -> Outcome<Value> {
    let paths: BTreeSet<StorePath> = world.paths.iter().cloned().collect();
    let count = paths.len();
    let request = encoded(&QueryValidPaths {
        paths,
        substitute: false,
    });
    let (known, reply): (BTreeSet<StorePath>, _) = Raw::open(&world.stock.socket())?.learn(&request)?;
    if known.len() != count {
        return Err(format!("{} of {count} paths are valid", known.len()).into());
    }
    Raw::open(&world.ours.socket())?.ask(&request, &reply)?;
    let figures = alternate(|side| {
        let mut connection = Raw::open(&world.socket(side))?;
        let began = Instant::now();
        connection.ask(&request, &reply)?;
        Ok(count as f64 / began.elapsed().as_secs_f64())
    })?;
    Ok(case("query-valid-paths", "ops_per_s", figures))
}

/// A request and its answer.
type Pair = (Vec<u8>, Vec<u8>);

/// Requests for the infos of some paths and their answers, both learnt from stock; nixci has been asked each once.
pub(crate) fn infos<'p>(
    world: &World,
    paths: impl Iterator<Item = &'p StorePath>,
) -> Outcome<Vec<(Pair, UnkeyedPathInfo)>> {
    let mut stock = Raw::open(&world.stock.socket())?;
    let mut ours = Raw::open(&world.ours.socket())?;
    let mut infos = Vec::new();
    for path in paths {
        let request = encoded(&QueryPathInfo { path: path.clone() });
        let (info, reply) = stock.learn::<Option<UnkeyedPathInfo>>(&request)?;
        ours.ask(&request, &reply)?;
        infos.push(((request, reply), info.ok_or("a path of the store is not valid")?));
    }
    Ok(infos)
}

pub(crate) fn path_info(world: &World) -> Outcome<Vec<Value>> {
    let every = world.paths.len() / ASKED;
    let pairs: Vec<Pair> = infos(world, world.paths.iter().step_by(every))?
        .into_iter()
        .map(|(pair, _)| pair)
        .collect();
    let mut cases = Vec::new();
    for connections in [1, 4, 16] {
        let figures = alternate(|side| at_once(world, side, &pairs, connections))?;
        let name = match connections {
            1 => "query-path-info".to_owned(),
            more => format!("query-path-info-{more}"),
        };
        cases.push(case(&name, "ops_per_s", figures));
    }
    let again = alternate(|side| {
        let mut connection = Raw::open(&world.socket(side))?;
        one_by_one(&mut connection, &pairs)?;
        let began = Instant::now();
        one_by_one(&mut connection, &pairs)?;
        Ok(pairs.len() as f64 / began.elapsed().as_secs_f64())
    })?;
    cases.push(case("query-path-info-again", "ops_per_s", again));
    let windows: Vec<Pair> = pairs
        .chunks(WINDOW)
        .map(|pairs| {
            let (requests, replies): (Vec<_>, Vec<_>) = pairs.iter().cloned().unzip();
            (requests.concat(), replies.concat())
        })
        .collect();
    let pipelined = alternate(|side| {
        let mut connection = Raw::open(&world.socket(side))?;
        let began = Instant::now();
        one_by_one(&mut connection, &windows)?;
        Ok(pairs.len() as f64 / began.elapsed().as_secs_f64())
    })?;
    cases.push(case("query-path-info-pipelined", "ops_per_s", pipelined));
    Ok(cases)
}

fn one_by_one(connection: &mut Raw, pairs: &[Pair]) -> Outcome<()> {
    pairs
        .iter()
        .try_for_each(|(request, reply)| connection.ask(request, reply))
}

/// All pairs, shared out among so many connections, in questions per second.
fn at_once(world: &World, side: Side, pairs: &[Pair], connections: usize) -> Outcome<f64> {
    let socket = world.socket(side);
    let start = Barrier::new(connections + 1);
    let seconds = std::thread::scope(|scope| -> Result<f64, String> {
        let clients: Vec<_> = pairs
            .chunks(pairs.len().div_ceil(connections))
            .map(|share| {
                let mut connection = Raw::open(&socket).map_err(|error| error.to_string());
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    let connection = connection.as_mut().map_err(|error| error.clone())?;
                    one_by_one(connection, share).map_err(|error| error.to_string())
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        for client in clients {
            client.join().map_err(|_| "a client panicked".to_owned())??;
        }
        Ok(began.elapsed().as_secs_f64())
    })?;
    Ok(pairs.len() as f64 / seconds)
}
