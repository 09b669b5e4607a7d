//! What CI systems run: the action as its runner runs it, the template of GitLab, the examples as linters and schemas of
//! others read them; and the commands that say what came of it, `report`, `doctor`, `login`, `logout`.

#[path = "../common/ran.rs"]
mod ran;

mod examples;
mod gitlab;
mod hostile;
mod login;
mod report;
mod runner;
mod submit;
mod world;
mod yaml;
