//! A strict stand-in for GitHub's side of App authentication, with a clock of its own: the emulator takes tokens that
//! GitHub would not, and knows no refusals.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::json;

use crate::server::{Asked, Reply, Server};
use crate::world::APP;

pub(crate) struct StandIn {
    pub(crate) server: Server,
    pub(crate) state: Arc<State>,
}

pub(crate) struct State {
    public: String,
    /// Seconds its clock is ahead of ours.
    ahead: i64,
    /// Seconds a token of an installation counts.
    pub(crate) lives: AtomicI64,
    /// The number of the one installation; 0: there is none.
    pub(crate) installation: AtomicU64,
    /// Tokens that were made. Only the last counts.
    pub(crate) made: AtomicU64,
    pub(crate) takes_tokens: AtomicBool,
    /// What is answered to what is asked with a token of the installation; when it is used up, `{"id": 1}`.
    pub(crate) replies: Mutex<VecDeque<Reply>>,
}

#[derive(Deserialize)]
struct Claims {
    iss: u64,
    iat: i64,
    exp: i64,
}

impl StandIn {
    /// With the public key of the App, and a clock that is so many seconds ahead of ours.
    pub(crate) async fn start(public: &str, ahead: i64) -> Self {
        nixci_daemon::tls::install_provider();
        let state = Arc::new(State {
            public: public.to_owned(),
            ahead,
            lives: AtomicI64::new(3_600),
            installation: AtomicU64::new(77),
            made: AtomicU64::new(0),
            takes_tokens: AtomicBool::new(true),
            replies: Mutex::new(VecDeque::new()),
        });
        let shared = Arc::clone(&state);
        let server = Server::start(move |asked| {
            let reply = shared.answer(&asked).with("Date", &shared.date());
            async move { reply }
        })
        .await;
        Self { server, state }
    }

    pub(crate) fn made(&self) -> u64 {
        self.state.made.load(Ordering::Relaxed)
    }

    pub(crate) fn will_reply(&self, reply: Reply) {
        self.state.replies.lock().unwrap().push_back(reply);
    }
}

impl State {
    fn now(&self) -> i64 {
        Timestamp::now().as_second() + self.ahead
    }

    fn date(&self) -> String {
        let now = Timestamp::from_second(self.now()).unwrap();
        now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    fn answer(&self, asked: &Asked) -> Reply {
        let installation = self.installation.load(Ordering::Relaxed);
        let not_found = || Reply::json(404, &json!({"message": "Not Found"}));
        if asked.path().ends_with("/installation") || asked.path().starts_with("/app") {
            if let Err(why) = self.knows_app(asked.bearer()) {
                return Reply::json(401, &json!({"message": why}));
            }
            return match asked.path() {
                "/app" => not_found(),
                path if path.ends_with("/installation") && installation == 0 => not_found(),
                path if path.ends_with("/installation") => Reply::json(200, &json!({"id": installation})),
                path if path == format!("/app/installations/{installation}/access_tokens") => {
                    let number = self.made.fetch_add(1, Ordering::Relaxed) + 1;
                    let expires = self.now() + self.lives.load(Ordering::Relaxed);
                    let expires = Timestamp::from_second(expires).unwrap();
                    Reply::json(
                        201,
                        &json!({"token": format!("ghs_secret{number}"), "expires_at": expires.to_string()}),
                    )
                }
                _ => not_found(),
            };
        }
        let counts = format!("ghs_secret{}", self.made.load(Ordering::Relaxed));
        if asked.bearer() != counts || !self.takes_tokens.load(Ordering::Relaxed) {
            return Reply::json(401, &json!({"message": "Bad credentials"}));
        }
        let next = self.replies.lock().unwrap().pop_front();
        next.unwrap_or_else(|| Reply::json(201, &json!({"id": 1})))
    }

    /// As GitHub's guide "Generating a JSON Web Token for a GitHub App" says.
    fn knows_app(&self, token: &str) -> Result<(), String> {
        let mut validation = Validation::new(Algorithm::RS256);
        (validation.validate_exp, validation.validate_aud) = (false, false);
        validation.required_spec_claims.clear();
        let key = DecodingKey::from_rsa_pem(self.public.as_bytes()).unwrap();
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
            .map_err(|_| "A JSON web token could not be decoded")?
            .claims;
        let now = self.now();
        if claims.iss != APP {
            return Err("Integration not found".to_owned());
        }
        if claims.iat > now {
            return Err(
                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
                    .to_owned(),
            );
        }
        if claims.exp <= now || claims.exp > now + 600 {
            return Err("'Expiration time' claim ('exp') is too far in the future".to_owned());
        }
        Ok(())
    }
}
