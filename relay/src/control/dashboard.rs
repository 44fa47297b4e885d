//! The dashboard: a page that draws `/status` for people. Its files are part of the program.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// A file of the page.
struct File {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const JS: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

const FILES: [File; 10] = [
    File { path: "/", kind: "text/html; charset=utf-8", bytes: include_bytes!("dashboard/index.html") },
    File { path: "/style.css", kind: CSS, bytes: include_bytes!("dashboard/style.css") },
    File { path: "/app.js", kind: JS, bytes: include_bytes!("dashboard/app.js") },
    File { path: "/format.js", kind: JS, bytes: include_bytes!("dashboard/format.js") },
    File { path: "/history.js", kind: JS, bytes: include_bytes!("dashboard/history.js") },
    File { path: "/plots.js", kind: JS, bytes: include_bytes!("dashboard/plots.js") },
    File { path: "/view.js", kind: JS, bytes: include_bytes!("dashboard/view.js") },
    File { path: "/uPlot.iife.min.js", kind: JS, bytes: include_bytes!("dashboard/uPlot.iife.min.js") },
    File { path: "/uPlot.min.css", kind: CSS, bytes: include_bytes!("dashboard/uPlot.min.css") },
    File { path: "/icon.svg", kind: "image/svg+xml", bytes: include_bytes!("dashboard/icon.svg") },
];

/// What a browser may do with what comes from here: nothing from elsewhere is loaded, nothing written into the page runs or
/// styles it, and no page shows this one inside.
const POLICY: [(header::HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
             frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        header::HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// The page and its files.
pub(super) fn routes() -> Router {
    FILES.iter().fold(Router::new(), |router, file| {
        let tag = tag(file.bytes);
        router.route(file.path, get(async move |headers: HeaderMap| answer(file, &tag, &headers)))
    })
}

/// Adds to any answer what keeps a browser from being talked into more than it is for. What says nothing about that is of
/// this moment only.
pub(super) async fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.extend(POLICY);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn answer(file: &File, tag: &str, request: &HeaderMap) -> Response {
    // Another version of the program has other files: browsers ask each time, and get the bytes only if they changed.
    let about = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache")];
    if has(request, tag) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, [(header::CONTENT_TYPE, file.kind)], file.bytes).into_response()
}

/// Whether the browser has it already (RFC 9110 §13.1.2).
fn has(request: &HeaderMap, tag: &str) -> bool {
    let lists = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    lists
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

fn tag(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}
