//! What is wanted of evaluations on real files, as the table of statuses takes it.

use std::collections::HashSet;

use nixci_protocol::nixci::control::{EvaluationId, EvaluationState, Selector};
use nixci_protocol::nixci::outcome::FailureClass;
use nixci_protocol::nixci::report::{StatusRole, StatusState};
use nixci_store::index::attempts::AttemptResult;
use nixci_store::index::statuses::{self, StatusRow, Wanted};

use super::compose::{self, Picture, Target};
use crate::config::{self, ContextNames, Detail, ForgeKind, Form, Project};
use crate::read::tests::{HEAD, World, attr};
use crate::scheduler::{End, StoreId};

fn project(detail: Detail) -> Project {
    Project {
        name: "*".to_owned(),
        forge: Some("github".to_owned()),
        repository: None,
        repository_id: None,
        notify: Vec::new(),
        detail,
        details: 47,
        comment: false,
        contexts: ContextNames::default(),
    }
}

/// Looks at an evaluation as the composer does, writes it down, and returns what was wanted.
async fn look(world: &World, evaluation: EvaluationId, forge: &config::Forge, project: &Project) -> Vec<Wanted> {
    let which = Selector::Evaluation(evaluation);
    let row = world.reader.find(&which).await.unwrap();
    let view = world.reader.view(&which, None).await.unwrap();
    let target = Target {
        forge,
        project,
        repository: &row.submission.project,
        commit: row.submission.commit.as_deref().unwrap(),
    };
    let (name, repository) = (forge.name.clone(), row.submission.project.clone());
    let there = world
        .index
        .read(move |conn| statuses::standing(conn, &name, &repository, HEAD))
        .await
        .unwrap();
    let others = HashSet::new();
    let shown = compose::shown(target, &view, &there, &others);
    let jobs = shown.iter().map(|at| view.jobs[*at].clone()).collect();
    let jobs = world.reader.statuses(jobs).await.unwrap();
    let wanted = compose::compose(
        target,
        Picture {
            submission: &row.submission,
            view: &view,
            there: &there,
            others: &others,
            jobs: &jobs,
            now: world.now,
        },
    );
    let (rows, at) = (wanted.clone(), world.now);
    world
        .index
        .write(move |tx| rows.iter().try_for_each(|row| statuses::want(tx, row, at).map(drop)))
        .await
        .unwrap();
    wanted
}

async fn there(world: &World, forge: &config::Forge, project: &str) -> Vec<StatusRow> {
    let (forge, project) = (forge.name.clone(), project.to_owned());
    world
        .index
        .read(move |conn| statuses::of_commit(conn, &forge, &project, HEAD))
        .await
        .unwrap()
}

fn github() -> config::Forge {
    config::Forge::of(ForgeKind::GitHub, "https://github.com", Form::Checks)
}

fn states(wanted: &[Wanted]) -> Vec<(String, StatusState)> {
    wanted
        .iter()
        .map(|wanted| (wanted.key.context.clone(), wanted.content.state))
        .collect()
}

fn of<'w>(wanted: &'w [Wanted], context: &str) -> &'w Wanted {
    wanted
        .iter()
        .find(|wanted| wanted.key.context == context)
        .unwrap_or_else(|| panic!("{context} is not among {:?}", states(wanted)))
}

#[tokio::test]
async fn a_small_evaluation_shows_every_job_once_it_is_final() {
    let world = World::new();
    let (_, head) = world.rockets().await;
    let wanted = look(&world, head, &github(), &project(Detail::Adaptive)).await;
    let expected = [
        ("nixci", StatusState::Failure),
        ("nixci/evaluation", StatusState::Failure),
        ("nixci/checks.engine", StatusState::Failure),
        ("nixci/checks.guidance", StatusState::Success),
        ("nixci/checks.manual", StatusState::Success),
        ("nixci/checks.propulsion", StatusState::Failure),
        ("nixci/checks.rocket", StatusState::Failure),
        ("nixci/checks.simulator", StatusState::Error),
        ("nixci/checks.telemetry", StatusState::Failure),
    ];
    let expected = expected.map(|(context, state)| (context.to_owned(), state));
    assert_eq!(states(&wanted), expected);
    assert_eq!(wanted[0].role, StatusRole::Summary, "whoever sends them begins with it");

    let evaluation = &of(&wanted, "nixci/evaluation").content;
    let places: Vec<_> = evaluation
        .annotations
        .iter()
        .map(|found| (found.path.as_str(), found.line))
        .collect();
    assert_eq!(
        places,
        [] as [(&str, u32); 0],
        "a path outside of any tree is nobody's line"
    );

    let blocked = &of(&wanted, "nixci/checks.rocket").content;
    assert_eq!(blocked.description, "blocked by libpropulsion-2.4 (build failed)");
    assert!(
        blocked.summary.contains("make: *** [Makefile:12: nozzle.o] Error 1"),
        "{}",
        blocked.summary
    );
    let command = format!("nix build 'github:acme/rockets/{HEAD}#checks.rocket'");
    assert!(blocked.summary.contains(&command), "{}", blocked.summary);
    let summary = &of(&wanted, "nixci").content;
    assert!(summary.description.chars().count() <= 140 && !summary.description.contains('\n'));
    assert!(
        summary
            .text
            .contains(&format!("github:acme/rockets/{HEAD}#checks.propulsion")),
        "{}",
        summary.text
    );
    for wanted in &wanted {
        let content = &wanted.content;
        assert!(content.summary.chars().count() <= 65_535 && content.text.chars().count() <= 65_535);
        for line in content.summary.lines().filter(|line| line.contains("<script>")) {
            let is_quoted = !line.starts_with("**") || line.contains('`');
            assert!(is_quoted, "markup gets out: {line}");
        }
        assert!(!content.summary.contains('\u{1b}'), "{}", content.summary);
    }
    let same = look(&world, head, &github(), &project(Detail::Adaptive)).await;
    assert_eq!(wanted, same, "looking again changes nothing");
}

#[tokio::test]
async fn detail_is_what_is_chosen() {
    let world = World::new();
    let (_, head) = world.rockets().await;
    let contexts = |wanted: &[Wanted]| {
        let names = wanted
            .iter()
            .skip(2)
            .map(|wanted| wanted.key.context.replace("nixci/checks.", ""));
        names.collect::<Vec<_>>().join(" ")
    };
    for (forge, detail, details, expected) in [
        ("a", Detail::Failures, 47, "propulsion simulator"),
        ("b", Detail::Failures, 1, "propulsion"),
        ("c", Detail::Adaptive, 3, "propulsion simulator"),
        ("d", Detail::Summary, 47, ""),
        (
            "e",
            Detail::All,
            1,
            "engine guidance manual propulsion rocket simulator telemetry",
        ),
    ] {
        let forge = config::Forge {
            name: forge.to_owned(),
            ..github()
        };
        let project = Project {
            details,
            ..project(detail)
        };
        let wanted = look(&world, head, &forge, &project).await;
        assert_eq!(contexts(&wanted), expected, "{detail:?} {details}");
    }
}

#[tokio::test]
async fn what_was_red_is_taken_back() {
    let world = World::new();
    world
        .add(&[("a-1", &[]), ("b-1", &[]), ("a-2", &[]), ("c-1", &[])])
        .await;
    let failed = AttemptResult::Failed(FailureClass::Build);
    world.attempt("a-1", failed, "", &["no"]).await;
    world.attempt("b-1", failed, "", &["no"]).await;
    world.built(&["a-2", "c-1"]).await;
    let first = [(attr("checks.a"), Ok("a-1")), (attr("checks.b"), Ok("b-1"))];
    let first = world
        .evaluation("o/n", Some(HEAD), None, &first, EvaluationState::Done)
        .await;
    let project = project(Detail::Failures);
    let wanted = look(&world, first, &github(), &project).await;
    assert_eq!(of(&wanted, "nixci/checks.a").content.state, StatusState::Failure);

    // The same commit is submitted again: `a` is fine now, `b` is gone, and only failures are shown.
    let second = [
        (attr("checks.a"), Ok("a-2")),
        (attr("checks.c"), Ok("c-1")),
        (attr("checks.d"), Ok("c-1")),
    ];
    let second = world
        .evaluation("o/n", Some(HEAD), None, &second, EvaluationState::Done)
        .await;
    let wanted = look(&world, second, &github(), &project).await;
    let expected = [
        ("nixci", StatusState::Success),
        ("nixci/evaluation", StatusState::Success),
        ("nixci/checks.a", StatusState::Success),
        ("nixci/checks.b", StatusState::Neutral),
    ];
    assert_eq!(
        states(&wanted),
        expected.map(|(context, state)| (context.to_owned(), state))
    );

    // Whatever becomes of the older evaluation now, the newer one stands.
    look(&world, first, &github(), &project).await;
    let rows = there(&world, &github(), "o/n").await;
    let rows: Vec<Wanted> = rows.into_iter().map(|row| row.wanted).collect();
    assert_eq!(
        states(&rows),
        expected.map(|(context, state)| (context.to_owned(), state))
    );
}

#[tokio::test]
async fn a_job_cannot_call_itself_as_the_summary_does() {
    let world = World::new();
    world.add(&[("a-1", &[])]).await;
    world.built(&["a-1"]).await;
    let jobs = [
        (attr("evaluation"), Ok("a-1")),
        (attr("x.y.same"), Ok("a-1")),
        (attr("x.z.same"), Ok("a-1")),
    ];
    let evaluation = world
        .evaluation("o/n", Some(HEAD), None, &jobs, EvaluationState::Done)
        .await;
    let wanted = look(&world, evaluation, &github(), &project(Detail::All)).await;
    assert_eq!(of(&wanted, "nixci/evaluation [evaluation]").role, StatusRole::Job);
    let by_name = Project {
        contexts: ContextNames {
            job: "nixci/{name}".to_owned(),
            ..ContextNames::default()
        },
        ..project(Detail::All)
    };
    let other = config::Forge {
        name: "other".to_owned(),
        ..github()
    };
    let wanted = look(&world, evaluation, &other, &by_name).await;
    of(&wanted, "nixci/same");
    of(&wanted, "nixci/same [x.z.same]");
}

#[tokio::test]
async fn a_plain_webhook_gets_the_verdict_when_it_is_final() {
    let world = World::new();
    let (_, head) = world.rockets().await;
    let hook = config::Forge::of(ForgeKind::Webhook, "https://example.org/hook", Form::Statuses);
    let wanted = look(&world, head, &hook, &project(Detail::Adaptive)).await;
    assert_eq!(wanted.len(), 1);
    let body: serde_json::Value = serde_json::from_str(&wanted[0].content.text).unwrap();
    assert_eq!((&body["event"], &body["state"]), (&"verdict".into(), &"failure".into()));
    assert_eq!(body["evaluation"]["commit"], HEAD);
    assert!(body["verdict"]["rootCauses"].as_array().unwrap().len() > 1);

    world.add(&[("slow-1", &[])]).await;
    let open = [(attr("checks.slow"), Ok("slow-1"))];
    let open = world
        .evaluation("o/n", Some(HEAD), None, &open, EvaluationState::Building)
        .await;
    world.schedule(open, &["slow-1"], &[("slow-1", &[])]).await;
    assert_eq!(look(&world, open, &hook, &project(Detail::Adaptive)).await, []);
    let wanted = look(&world, open, &github(), &project(Detail::All)).await;
    let expected = [
        ("nixci", StatusState::Running),
        ("nixci/evaluation", StatusState::Success),
    ];
    assert_eq!(
        states(&wanted),
        expected.map(|(context, state)| (context.to_owned(), state))
    );
    let again = look(&world, open, &github(), &project(Detail::All)).await;
    assert_eq!(
        states(&again),
        [("nixci/evaluation".to_owned(), StatusState::Success)],
        "progress is not written each time"
    );
}

#[tokio::test]
async fn an_evaluation_that_was_given_up_waits_for_somebody() {
    let world = World::new();
    world.add(&[("a-1", &[])]).await;
    let jobs = [(attr("checks.a"), Ok("a-1"))];
    let evaluation = world
        .evaluation("o/n", Some(HEAD), None, &jobs, EvaluationState::Abandoned)
        .await;
    let forgejo = config::Forge::of(ForgeKind::Forgejo, "https://git.example.org", Form::Statuses);
    for (forge, expected) in [(github(), StatusState::ActionRequired), (forgejo, StatusState::Error)] {
        let wanted = look(&world, evaluation, &forge, &project(Detail::Adaptive)).await;
        assert_eq!(wanted[0].content.state, expected);
        assert!(
            wanted[0].content.description.starts_with("given up"),
            "{:?}",
            wanted[0].content
        );
    }
}

#[tokio::test]
async fn what_was_shown_before_counts_and_keeps_its_name() {
    let world = World::new();
    world
        .add(&[("a-1", &[]), ("b-1", &[]), ("c-1", &[]), ("slow-1", &[])])
        .await;
    let failed = AttemptResult::Failed(FailureClass::Build);
    let jobs = [
        (attr("x.a.same"), Ok("a-1")),
        (attr("x.b.same"), Ok("b-1")),
        (attr("x.c.other"), Ok("c-1")),
        (attr("x.slow"), Ok("slow-1")),
    ];
    let evaluation = world
        .evaluation("o/n", Some(HEAD), None, &jobs, EvaluationState::Building)
        .await;
    let builds: Vec<(&str, &[&str])> = vec![("a-1", &[]), ("b-1", &[]), ("c-1", &[]), ("slow-1", &[])];
    world
        .schedule(evaluation, &["a-1", "b-1", "c-1", "slow-1"], &builds)
        .await;
    let project = Project {
        details: 2,
        contexts: ContextNames {
            job: "nixci/{name}".to_owned(),
            ..ContextNames::default()
        },
        ..project(Detail::Failures)
    };
    let jobs = |wanted: &[Wanted]| {
        let jobs = wanted.iter().filter(|wanted| wanted.role == StatusRole::Job);
        jobs.map(|wanted| wanted.key.context.clone()).collect::<Vec<_>>()
    };
    let mut seen = Vec::new();
    for name in ["b-1", "a-1", "c-1"] {
        let id = world.id(name).await;
        world.attempt(name, failed, "", &["no"]).await;
        world
            .scheduler
            .ended(id, StoreId(0), End::Failed(FailureClass::Build))
            .await
            .unwrap();
        seen.push(jobs(&look(&world, evaluation, &github(), &project).await));
    }
    let expected: [&[&str]; 3] = [&["nixci/same"], &["nixci/same [x.a.same]"], &[]];
    assert_eq!(seen, expected, "two in all, each written once, under a name that stays");
    let rows = there(&world, &github(), "o/n").await;
    let row = rows.iter().find(|row| row.wanted.key.context == "nixci/same").unwrap();
    assert_eq!(row.wanted.attr, Some(attr("x.b.same")));
}
