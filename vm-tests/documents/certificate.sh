#!/bin/sh
# The certificate of a host, /etc/nixci/NAME.pem and NAME.key, by an authority that this machine trusts from now on.
set -eu
name=$1
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=authority of $name" \
    -keyout authority.key -out authority.pem 2>errors || { cat errors >&2; exit 1; }
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout host.key -out host.csr 2>errors ||
    { cat errors >&2; exit 1; }
printf 'subjectAltName=DNS:%s\nbasicConstraints=CA:FALSE\n' "$name" >extensions
openssl x509 -req -in host.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 30 -extfile extensions \
    -out host.pem 2>errors || { cat errors >&2; exit 1; }
install -m 644 host.pem "/etc/nixci/$name.pem"
install -m 600 host.key "/etc/nixci/$name.key"
install -m 644 authority.pem "/usr/local/share/ca-certificates/$name.crt"
update-ca-certificates >/dev/null
