# The commands of the documents, each page from top to bottom, in a Debian that has neither Nix nor nixci when it boots.
# NixOS is left out: what is installed and how is what these pages are about.
let
  files = folder: builtins.attrNames (builtins.readDir folder);
  isPage = name: builtins.match ".*\\.md" name != null;
  page = name: file: {
    name = "/srv/documents/${name}";
    value.text = builtins.readFile file;
  };
  pages = map (name: page "docs/${name}" (../docs + "/${name}")) (builtins.filter isPage (files ../docs));
in
{
  description = "every command of the documents does what they say";
  machines.ci = {
    bare = true;
    sshd = true;
    users = [ "alice" ];
    tools = [
      "python3"
      "curl"
      "git"
      "openssl"
    ];
    files =
      builtins.listToAttrs (pages ++ [ (page "README.md" ../README.md) ])
      // {
        "/srv/documents/run.py".text = builtins.readFile ./documents/run.py;
        "/usr/local/bin/stand-in-certificate" = {
          text = builtins.readFile ./documents/certificate.sh;
          mode = "0755";
        };
      };
  };
  script = ./documents.py;
}
