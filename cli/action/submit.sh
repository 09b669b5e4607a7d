#!/usr/bin/env bash
# What action.yml runs: makes one `nixci submit` of its inputs, which are in the environment. An input is data: it is
# never expanded and never part of a script. The token goes from the environment to nixci, past everything else.
#
# Runs with the bash of macOS too (3.2): no `mapfile`, no name references, no empty arrays.
set -euo pipefail

# The runner takes lines that begin with `::` for commands, so what an input says stays on one line.
die() {
    local text=$1
    text=${text//'%'/'%25'}
    text=${text//$'\r'/'%0D'}
    text=${text//$'\n'/'%0A'}
    printf '::error title=nixci::%s\n' "$text"
    exit 2
}

# Appends the words of TEXT to `args`, each after PREFIX. They are split at blanks and newlines; quotes and backslashes
# hold a word together. xargs does that without expanding anything.
add_words() { # INPUT PREFIX TEXT
    local word words
    case $3 in *[![:space:]]*) ;; *) return 0 ;; esac
    words=$(mktemp)
    if ! printf '%s\n' "$3" | xargs printf '%s\0' >"$words" 2>/dev/null; then
        rm -f "$words"
        die "the input '$1' cannot be split into words: a quote has no end on its line"
    fi
    while IFS= read -r -d '' word; do args+=("$2$word"); done <"$words"
    rm -f "$words"
}

# The path of the command, on standard output.
find_nixci() {
    local wanted=${INPUT_NIXCI:-} out
    if [ -z "$wanted" ]; then
        if command -v nixci; then return; fi
        [ -e "$GITHUB_ACTION_PATH/flake.nix" ] ||
            die "nixci is not on PATH, and this version of the action has no flake: give a flake reference or a path as the input 'nixci'"
        wanted=path:$GITHUB_ACTION_PATH
    elif [ -f "$wanted" ] && [ -x "$wanted" ]; then
        printf '%s\n' "$(cd "$(dirname "$wanted")" && pwd)/$(basename "$wanted")"
        return
    else
        case $wanted in -*) die "'$wanted' is no flake reference, path or name of nixci" ;; esac
        if command -v "$wanted"; then return; fi
    fi
    command -v nix >/dev/null || die "Nix is needed to build nixci: install it in a step before this one"
    out=$(env -u NIXCI_TOKEN nix --extra-experimental-features 'nix-command flakes' \
        build --no-link --print-out-paths "$wanted") || die "failed to build nixci from '$wanted'; Nix says why above"
    [ -x "$out/bin/nixci" ] || die "'$wanted' builds no bin/nixci"
    printf '%s\n' "$out/bin/nixci"
}

# To nixci a variable that is empty and one that is not set are not always the same.
for name in NIXCI_TO NIXCI_TOKEN NIXCI_AUDIENCE; do
    if [ -z "${!name:-}" ]; then unset "$name"; fi
done

args=(submit)
if [ -n "${INPUT_ARTIFACT:-}" ]; then
    [ -z "${INPUT_FROM_ARTIFACT:-}" ] || die "'artifact' writes a file and 'from_artifact' sends one: give one of them"
    args+=("--artifact=$INPUT_ARTIFACT")
else
    [ -n "${NIXCI_TO:-}" ] || die "the input 'to' is missing: the address of the daemon, such as https://ci.example.org"
fi
case ${INPUT_WAIT:-false} in
true) args+=(--wait) ;;
false) ;;
*) die "the input 'wait' is true or false, not '$INPUT_WAIT'" ;;
esac
if [ -n "${INPUT_PROJECT:-}" ]; then args+=("--project=$INPUT_PROJECT"); fi

if [ -n "${INPUT_FROM_ARTIFACT:-}" ]; then
    args+=("--from-artifact=$INPUT_FROM_ARTIFACT")
    add_words args '' "${INPUT_ARGS:-}"
else
    case ${INPUT_EVALUATION_WORKERS:-} in
    '') ;;
    # nixbuild-checks took these for one worker with everything.
    0 | -[0-9]*) args+=(--workers=1) ;;
    *[!0-9]*) die "the input 'evaluation_workers' is a number, not '$INPUT_EVALUATION_WORKERS'" ;;
    *) args+=("--workers=$INPUT_EVALUATION_WORKERS") ;;
    esac
    if [ -n "${INPUT_FLAKE_APPLY:-}" ]; then args+=("--apply=$INPUT_FLAKE_APPLY"); fi
    add_words nix_args --nix-arg= "${INPUT_NIX_ARGS:-}"
    add_words args '' "${INPUT_ARGS:-}"
    flake=${INPUT_FLAKE:-.}
    # A reference with an attribute is whole.
    case $flake in *'#'*) ;; *) flake="$flake#${INPUT_FLAKE_ATTR:-checks}" ;; esac
    args+=(-- "$flake")
fi

nixci=$(find_nixci) || { printf '%s\n' "$nixci"; exit 2; }
exec "$nixci" "${args[@]}"
