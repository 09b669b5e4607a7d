use std::collections::HashMap;
use std::fs;

use super::*;

const HERE: &str = "https://ci.example.org";

fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let map: HashMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    move |name: &str| map.get(name).filter(|value| !value.is_empty()).cloned()
}

fn found(token_file: Option<&Path>, env: Env<'_>) -> String {
    format!("{:?}", Identity::find(HERE, token_file, env).unwrap().source)
}

#[test]
fn the_first_source_that_has_a_token_counts() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().to_str().unwrap();
    let all = [
        ("NIXCI_TOKEN", "one"),
        ("XDG_CONFIG_HOME", config),
        (
            "ACTIONS_ID_TOKEN_REQUEST_URL",
            "https://actions.example.org/token?api-version=2.0",
        ),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "three"),
        ("NIXCI_ID_TOKEN", "four"),
    ];
    let saved = Credentials::find(&env(&all)).unwrap();
    saved.write(HERE, &"two".into()).unwrap();
    saved.write("https://other.example.org", &"other".into()).unwrap();

    assert_eq!(found(Some(Path::new("/x")), &env(&all)), "File(/x)");
    assert_eq!(found(None, &env(&all)), "Known(NIXCI_TOKEN)");
    assert_eq!(found(None, &env(&all[1..])), "Known(`nixci login`)");
    saved.remove(HERE).unwrap();
    assert_eq!(found(None, &env(&all[1..])), "Actions");
    assert_eq!(found(None, &env(&all[3..])), "Known(NIXCI_ID_TOKEN)");
    assert_eq!(found(None, &env(&[])), "Nowhere");
}

#[tokio::test]
async fn a_job_without_a_token_is_told_what_to_do_where_it_runs() {
    for (pairs, says) in [
        (
            &[("GITHUB_ACTIONS", "true")][..],
            &["id-token: write", "--artifact"][..],
        ),
        (
            &[("GITHUB_ACTIONS", "true"), ("FORGEJO_ACTIONS", "true")],
            &["enable-openid-connect: true", "NIXCI_TOKEN"],
        ),
        (
            &[("GITLAB_CI", "true")],
            &["id_tokens: {NIXCI_ID_TOKEN: {aud: \"https://ci.example.org\"}}"],
        ),
        (&[], &["nixci login --to https://ci.example.org", "--token-file"]),
    ] {
        let identity = Identity::find(HERE, None, &env(pairs)).unwrap();
        let problem = identity.token().await.unwrap_err();
        assert_eq!(problem.exit(), Exit::NotAllowed);
        for text in says {
            assert!(problem.to_string().contains(text), "{problem}");
        }
    }
}

#[tokio::test]
async fn a_token_file_is_read_each_time_and_holds_one_word() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let identity = Identity::find(HERE, Some(&path), &env(&[])).unwrap();
    assert_eq!(identity.token().await.unwrap_err().exit(), Exit::Usage);
    for token in ["first", "second"] {
        fs::write(&path, format!("{token}\n")).unwrap();
        assert_eq!(identity.token().await.unwrap().expose_secret(), token);
    }
    for content in ["", "\n", "s3cret word", "s3cret\u{e9}", &"s3cret".repeat(4000)] {
        fs::write(&path, content).unwrap();
        let problem = identity.token().await.unwrap_err();
        assert_eq!(problem.exit(), Exit::Usage);
        assert!(!problem.to_string().contains("s3cret"), "{problem}");
    }
    let problem = Identity::find(HERE, None, &env(&[("NIXCI_TOKEN", "s3cret word")])).unwrap_err();
    assert!(!problem.to_string().contains("s3cret"), "{problem}");
}
