use clap::{CommandFactory, Parser, error::ErrorKind};
use rstest::rstest;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[rstest]
#[case("nixci submit")]
#[case("nixci submit .#packages --wait --label a=b --label c=d=e")]
#[case("nixci submit --file ci.nix -A tests --argstr a b --arg c -1")]
#[case("nixci submit --jobs-file - --project a/b --commit 0123")]
#[case("nixci submit --embedded --nix-arg --show-trace --nix-arg -L --workers 2")]
#[case("nixci submit /nix/store/x.drv /nix/store/y.drv --from local?root=/r")]
#[case("nixci submit .#checks --artifact x")]
#[case("nixci submit --from-artifact x --wait --commit 0123")]
#[case("nixci submit --to https://h --token-file x --insecure-http")]
#[case("nixci log checks.a 12 -f")]
#[case("nixci log --attempt 7")]
#[case("nixci --to ssh-ng://host status --json")]
#[case("nixci status --to /run/x")]
#[case("nixci copy --to unix:///s --stdin --derivation")]
#[case("nixci diff main")]
#[case("nixci gc --dry-run --json")]
#[case("nixci report HEAD --again")]
#[case("nixci login --to https://ci.example.org")]
fn what_the_help_promises_parses(#[case] line: &str) {
    parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
}

#[rstest]
#[case("nixci submit .#a --file x", ErrorKind::ArgumentConflict)]
#[case("nixci submit --file x --expr y", ErrorKind::ArgumentConflict)]
#[case("nixci submit --jobs-file x --apply y", ErrorKind::ArgumentConflict)]
#[case("nixci submit -A x", ErrorKind::MissingRequiredArgument)]
#[case("nixci submit --artifact x --from-artifact y", ErrorKind::ArgumentConflict)]
#[case("nixci submit --artifact x --wait", ErrorKind::ArgumentConflict)]
#[case("nixci submit .#a --from-artifact x", ErrorKind::ArgumentConflict)]
#[case("nixci submit --label nothing", ErrorKind::ValueValidation)]
#[case("nixci submit --workers 0", ErrorKind::ValueValidation)]
#[case("nixci log", ErrorKind::MissingRequiredArgument)]
#[case("nixci log --attempt 7 x", ErrorKind::ArgumentConflict)]
#[case("nixci copy", ErrorKind::MissingRequiredArgument)]
#[case("nixci login token", ErrorKind::UnknownArgument)]
#[case("nixci frobnicate", ErrorKind::InvalidSubcommand)]
fn what_makes_no_sense_is_a_usage_error(#[case] line: &str, #[case] kind: ErrorKind) {
    let error = parse(line).expect_err(line);
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn the_flake_s_checks_are_submitted_without_arguments() {
    let Command::Submit(submit) = parse("nixci submit").unwrap().command else {
        panic!("not a submit")
    };
    assert!(submit.what.is_empty() && submit.source.attr.is_none() && !submit.wait);
}
