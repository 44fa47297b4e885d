//! The dashboard's files as a browser gets them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::admin;

/// What a request was answered.
struct Answer {
    code: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }
}

/// Sends a request; `more` are lines of its head.
fn ask(admin: SocketAddr, method: &str, path: &str, more: &str) -> Answer {
    let host = if more.contains("Host:") { "" } else { "Host: localhost\r\n" };
    let mut connection = TcpStream::connect(admin).unwrap();
    write!(connection, "{method} {path} HTTP/1.1\r\n{host}{more}Connection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("the end of the head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { code, head, body: answer[end + 4..].to_vec() }
}

fn get(admin: SocketAddr, path: &str) -> Answer {
    ask(admin, "GET", path, "")
}

/// What follows `before` in a text, up to the next quotation mark.
fn quoted_after<'t>(text: &'t str, before: &str) -> impl Iterator<Item = &'t str> {
    text.split(before).skip(1).map(|rest| rest.split('"').next().unwrap())
}

#[test]
fn every_file_that_the_page_refers_to_is_there_and_of_its_kind() {
    let (_daemon, admin) = admin::start();
    let page = get(admin, "/");
    assert_eq!((page.code, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let mut left: Vec<String> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|before| quoted_after(page.text(), before))
        .map(str::to_owned)
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(path) = left.pop() {
        // Another host would be named by a scheme or by two slashes.
        assert!(path.starts_with('/') && !path.starts_with("//"), "{path}");
        if !seen.insert(path.clone()) {
            continue;
        }
        let file = get(admin, &path);
        assert_eq!(file.code, 200, "{path}");
        let kind = match path.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "application/json",
        };
        assert_eq!(file.header("content-type"), Some(kind), "{path}");
        if kind.starts_with("text/javascript") {
            left.extend(quoted_after(file.text(), "from \"./").map(|name| format!("/{name}")));
        }
    }
    let modules = ["/app.js", "/format.js", "/history.js", "/plots.js", "/view.js", "/uPlot.iife.min.js"];
    assert!(modules.iter().all(|module| seen.contains(*module)), "{seen:?}");
}

#[test]
fn nothing_from_elsewhere_and_nothing_written_into_the_page_is_allowed_to_act() {
    let (_daemon, admin) = admin::start();
    for path in ["/", "/app.js", "/status", "/metrics", "/nothing"] {
        let answer = get(admin, path);
        let policy: BTreeSet<&str> =
            answer.header("content-security-policy").expect("a policy").split("; ").collect();
        let strict = [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ];
        assert_eq!(policy, BTreeSet::from(strict), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{path}");
    }
    // The policy would refuse them too, and the page would not look or work as meant.
    let page = get(admin, "/");
    for inline in ["style=", "<style", " onclick", " onload", "<script>"] {
        assert!(!page.text().contains(inline), "{inline}");
    }
}

#[test]
fn a_browser_gets_a_file_again_only_if_it_changed() {
    let (_daemon, admin) = admin::start();
    let first = get(admin, "/app.js");
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    let tag = first.header("etag").expect("a tag");
    assert_ne!(Some(tag), get(admin, "/view.js").header("etag"));
    for known in [tag.to_owned(), format!("\"other\", W/{tag}"), "*".to_owned()] {
        let again = ask(admin, "GET", "/app.js", &format!("If-None-Match: {known}\r\n"));
        assert_eq!((again.code, again.body.len(), again.header("etag")), (304, 0, Some(tag)), "{known}");
    }
    let other = ask(admin, "GET", "/app.js", "If-None-Match: \"other\"\r\n");
    assert_eq!((other.code, &other.body), (200, &first.body));
    assert_eq!(get(admin, "/status").header("cache-control"), Some("no-store"));
}

#[test]
fn head_is_answered_without_the_bytes_and_nothing_can_be_written() {
    let (_daemon, admin) = admin::start();
    let whole = get(admin, "/");
    let head = ask(admin, "HEAD", "/", "");
    assert_eq!((head.code, head.body.len()), (200, 0));
    for name in ["content-length", "content-type", "etag"] {
        assert!(head.header(name).is_some() && head.header(name) == whole.header(name), "{name}");
    }
    assert_eq!(ask(admin, "POST", "/", "Content-Length: 0\r\n").code, 405);
}

#[test]
fn paths_that_are_no_file_and_hosts_that_are_not_this_machine_get_nothing() {
    let (_daemon, admin) = admin::start();
    for path in
        ["/index.html", "/dashboard/app.js", "/../app.js", "/app.js/", "/%2e%2e/Cargo.toml", "//app.js"]
    {
        assert_eq!(get(admin, path).code, 404, "{path}");
    }
    for path in ["/", "/app.js", "/icon.svg"] {
        let answer = ask(admin, "GET", path, "Host: rebound.example:7451\r\n");
        assert_eq!(answer.code, 403, "{path}");
        assert!(!answer.text().contains("superpeer"), "{path}");
    }
}
