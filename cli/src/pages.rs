//! A list as a whole: the pages of an answer, followed and put together.

use serde_json::Value;

use crate::client::{Client, query};

/// What `path` answers, with all that is on the pages behind the first.
pub(crate) async fn whole(
    client: &Client,
    path: &str,
    parameters: &[(&str, Option<String>)],
) -> anyhow::Result<Value> {
    let mut answer = client.get(&query(path, parameters)).await?.body;
    while let Some(token) = answer["nextPageToken"].as_str().map(str::to_owned) {
        let mut parameters = parameters.to_vec();
        parameters.push(("pageToken", Some(token)));
        let next = client.get(&query(path, &parameters)).await?.body;
        answer = joined(answer, next);
    }
    Ok(answer)
}

/// Two pages of one list as one.
fn joined(mut page: Value, mut next: Value) -> Value {
    for list in ["items", "changes"] {
        let lists = (page.get_mut(list), next.get_mut(list));
        if let (Some(Value::Array(items)), Some(Value::Array(more))) = lists {
            items.append(more);
        }
    }
    if let (Some(Value::Object(clusters)), Some(Value::Object(more))) =
        (page.get_mut("routes"), next.get_mut("routes"))
    {
        for (cluster, routes) in std::mem::take(more) {
            match (clusters.get_mut(&cluster), routes) {
                (Some(Value::Object(held)), Value::Object(routes)) => held.extend(routes),
                (_, routes) => drop(clusters.insert(cluster, routes)),
            }
        }
    }
    match next.get_mut("nextPageToken") {
        Some(token) => page["nextPageToken"] = token.take(),
        None => drop(page.as_object_mut().and_then(|page| page.remove("nextPageToken"))),
    }
    page
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_are_joined_until_there_is_none() {
        let pages = joined(
            json!({"items": [1], "nextPageToken": "a"}),
            json!({"items": [2], "nextPageToken": "b"}),
        );
        assert_eq!(pages, json!({"items": [1, 2], "nextPageToken": "b"}));
        assert_eq!(joined(pages, json!({"items": [3]})), json!({"items": [1, 2, 3]}));
        assert_eq!(
            joined(
                json!({"name": "x", "changes": [1], "nextPageToken": "a"}),
                json!({"name": "x", "changes": [2]})
            ),
            json!({"name": "x", "changes": [1, 2]})
        );
    }

    #[test]
    fn routes_are_joined_by_cluster() {
        let first = json!({"routes": {"eu": {"a": 1}, "us": {"a": 2}}, "nextPageToken": "a"});
        let rest = json!({"routes": {"us": {"b": 3}, "us-west": {"a": 4}}});
        assert_eq!(
            joined(first, rest),
            json!({"routes": {"eu": {"a": 1}, "us": {"a": 2, "b": 3}, "us-west": {"a": 4}}})
        );
    }
}
