//! nginx in front of a daemon, configured as the door's documentation says.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use nixci_daemon::config::Tls;
use nixci_store::testing::peers::{Peer, free_port};

/// A proxy that runs until it is dropped.
pub(crate) struct Proxy {
    _peer: Peer,
    port: u16,
}

impl Proxy {
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
}

/// The lines for nginx in the documentation of `daemon/src/http/connect.rs`.
fn documented(behind: SocketAddr) -> String {
    let source = include_str!("../../src/http/connect.rs");
    let lines = source.lines().filter_map(|line| line.strip_prefix("//! "));
    let location: Vec<&str> = lines
        .skip_while(|line| *line != "location /connect {")
        .take_while(|line| *line != "# Caddy passes upgrades on by itself")
        .collect();
    assert!(location.last() == Some(&"}"), "{location:?}");
    location.join("\n").replace("127.0.0.1:8473", &behind.to_string())
}

pub(crate) fn start(behind: SocketAddr, folder: &Path, tls: &Tls) -> Proxy {
    let port = free_port();
    let place = folder.display();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {place};\nproxy_temp_path {place};\nfastcgi_temp_path {place};\n\
         uwsgi_temp_path {place};\nscgi_temp_path {place};\nserver {{\nlisten 127.0.0.1:{port} ssl;\n\
         ssl_certificate {};\nssl_certificate_key {};\n{}\n}}\n}}\n",
        tls.certificate.display(),
        tls.key.path.display(),
        documented(behind)
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-c").arg(&file).arg("-p").arg(folder);
    Proxy {
        _peer: Peer::start(command, port, folder),
        port,
    }
}
