//! Small derivations for tests, as Nix expressions that need nothing but `/bin/sh`.

use std::fmt::Write as _;

/// One derivation of a test expression.
#[derive(Debug, Clone)]
pub struct TestDrv {
    name: String,
    needs: Vec<String>,
    script: Vec<String>,
    end: String,
    system: String,
    extra: Vec<(String, String)>,
}

impl TestDrv {
    /// A derivation that prints `building NAME` and succeeds.
    pub fn good(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            needs: Vec::new(),
            script: vec!["echo building $name".to_owned()],
            end: "echo $name $needs > $out".to_owned(),
            system: "builtins.currentSystem".to_owned(),
            extra: Vec::new(),
        }
    }

    /// A derivation that prints `error: NAME does not compile` and fails.
    pub fn failing(name: &str) -> Self {
        Self {
            end: "echo \"error: $name does not compile\" >&2; exit 1".to_owned(),
            ..Self::good(name)
        }
    }

    /// Makes it depend on others of the same expression.
    #[must_use]
    pub fn needs(mut self, names: &[&str]) -> Self {
        self.needs.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Adds lines of shell to run before the end.
    #[must_use]
    pub fn script(mut self, lines: &str) -> Self {
        self.script.push(lines.to_owned());
        self
    }

    /// Makes it wait at the gate of this name ([`TestDaemon::gate`](super::TestDaemon::gate)).
    #[must_use]
    pub fn gate(self, gate: &str) -> Self {
        self.script(&format!(
            "echo started > /gates/{gate}/started; read go < /gates/{gate}/go"
        ))
    }

    /// Makes it one for another system.
    #[must_use]
    pub fn system(mut self, system: &str) -> Self {
        self.system = format!("{system:?}");
        self
    }

    /// Makes its output one whose path follows from its content.
    #[must_use]
    pub fn floating(self) -> Self {
        self.attribute("__contentAddressed", "true")
            .attribute("outputHashMode", "\"recursive\"")
            .attribute("outputHashAlgo", "\"sha256\"")
    }

    /// Sets another attribute of the derivation, the value in Nix syntax.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.extra.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A Nix expression: an attribute set with one derivation per entry, named as given.
///
/// `salt` enters every derivation, so two tests (or two runs) that must not share paths use two salts.
pub fn expression(salt: &str, derivations: &[TestDrv]) -> String {
    let mut text = "rec {\n".to_owned();
    for TestDrv {
        name,
        needs,
        script,
        end,
        system,
        extra,
    } in derivations
    {
        let needs = needs
            .iter()
            .map(|name| format!("\"${{{name}}}\""))
            .collect::<Vec<_>>()
            .join(" ");
        let script = script
            .iter()
            .chain([end])
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n");
        let _ = write!(
            text,
            "  {name} = derivation {{\n    name = {name:?};\n    system = {system};\n    \
             builder = \"/bin/sh\";\n    salt = {salt:?};\n    needs = [ {needs} ];\n    \
             args = [ \"-ec\" ''\n{}\n'' ];\n",
            script.replace("''", "'''").replace("${", "''${")
        );
        for (attribute, value) in extra {
            let _ = writeln!(text, "    {attribute} = {value};");
        }
        text.push_str("  };\n");
    }
    text.push_str("}\n");
    text
}
