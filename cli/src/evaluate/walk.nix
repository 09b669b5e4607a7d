# Visits attribute paths one after the other and says on the way what each is. It speaks through
# `builtins.trace`, whose lines appear at once: when an attribute breaks the evaluator, the last "begin"
# names it, and everything said before still counts. `config` is { mark, paths, force, depth, small }.
config: root:
let
  inherit (builtins)
    attrNames
    filter
    foldl'
    isAttrs
    isString
    length
    seq
    toJSON
    trace
    unsafeDiscardStringContext
    ;

  say = kind: value: trace "${config.mark} ${kind} ${unsafeDiscardStringContext (toJSON value)}" null;
  at = foldl' (value: name: value.${name}) root;

  text = value: if isString value then value else "";

  visit = path: seq (say "begin" path) (found path (at path));
  visitAll = foldl' (done: path: seq (visit path) done) null;

  found =
    path: value:
    if !isAttrs value then
      say "none" null
    else if (value.type or null) == "derivation" then
      say "drv" {
        drvPath = "${value.drvPath}";
        name = text (value.name or null);
        system = text (value.system or null);
      }
    else if path == [ ] || config.force || (value.recurseForDerivations or false) == true then
      let
        names = filter (name: name != "recurseForDerivations") (attrNames value);
        # A set with few names is visited here; a larger one is shared out among processes.
        enter = length path < config.depth || length names <= config.small;
      in
      seq (say "set" { inherit names enter; }) (
        if enter then visitAll (map (name: path ++ [ name ]) names) else null
      )
    else
      say "none" null;
in
seq (visitAll config.paths) ""
