# Turns what the source evaluated to into the set that is walked; both evaluators begin with it.
# `config` is { perSystem, systems }, `apply` the user's function or null.
config: apply: root:
let
  inherit (builtins)
    attrNames
    elem
    filter
    foldl'
    isAttrs
    isList
    isString
    length
    listToAttrs
    map
    split
    toJSON
    ;

  isDerivation = value: isAttrs value && (value.type or null) == "derivation";

  # `checks` and its like hold one set per system, which is entered though it does not say so itself.
  enter = value: if isAttrs value && !isDerivation value then value // { recurseForDerivations = true; } else value;
  wanted = filter (system: config.systems == [ ] || elem system config.systems);
  bySystem =
    set:
    listToAttrs (
      map (system: {
        name = system;
        value = enter set.${system};
      }) (wanted (attrNames set))
    );

  # What the function gives is known by its keys: "s:NAME" an attribute of a set, "a:[PATH]" a selected
  # attribute, "l:LABEL" one under a name of its own.
  names = attr: if isList attr then attr else filter isString (split "\\." attr);
  selected =
    entry:
    let
      path = names entry.attr;
    in
    {
      name = if entry ? label && entry.label != null then "l:${entry.label}" else "a:${toJSON path}";
      value = foldl' (value: name: value.${name}) root path;
    };
  applied = apply root;
  asSet =
    entries:
    let
      set = listToAttrs (map selected entries);
    in
    if length (attrNames set) != length entries then
      throw "the function given with --apply names two entries alike; every label must be different"
    else
      set;
in
if apply != null then
  if isList applied then
    asSet applied
  else if isAttrs applied && !isDerivation applied then
    listToAttrs (
      map (name: {
        name = "s:${name}";
        value = applied.${name};
      }) (attrNames applied)
    )
  else
    throw "the function given with --apply must return a list of { attr, label } or a set of derivations"
else if config.perSystem && isAttrs root && !isDerivation root then
  bySystem root
else
  root
