//! JSON schemas of all kinds, with an example of each. They are made from the structs that documents are read into, so
//! that they cannot tell anything else; only what is parsed from text says here what that text looks like.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::behaviour::{HostMove, Reach, ServiceMove};
use crate::name::{FQN_BYTES_MAX, Kind};
use crate::readiness::Readiness;
use crate::roll_up::Status;
use crate::search::Touch;
use crate::{explain, intent, setting};

mod text;

/// Where the schemas that others refer to stand, in a document of many schemas.
pub const COMPONENTS: &str = "/components/schemas";

/// Schemas that refer to each other, by name: one per kind, what is answered about resources, and what these are made of.
pub fn components() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = COMPONENTS.into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let kinds: Vec<(String, Value)> = Kind::ALL
        .into_iter()
        .map(|kind| (kind.to_string(), resource(kind, &mut generator)))
        .collect();
    generator.subschema_for::<Status>();
    generator.subschema_for::<explain::Advice>();
    generator.subschema_for::<explain::Destination>();
    generator.subschema_for::<explain::Stage>();
    generator.subschema_for::<explain::request::Request>();
    generator.subschema_for::<HostMove>();
    generator.subschema_for::<Reach>();
    generator.subschema_for::<ServiceMove>();
    generator.subschema_for::<Readiness>();
    generator.subschema_for::<Touch>();
    let mut components = generator.take_definitions(true);
    for (name, schema) in kinds {
        let held = components.insert(name, schema);
        assert!(
            held.is_none(),
            "invariant: nothing that a kind is made of has the name of a kind"
        );
    }
    components
}

/// The schema of one kind, which needs no other.
pub fn document(kind: Kind) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut document = resource(kind, &mut generator);
    document["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    document["$id"] = json!(format!("/v1/schemas/{kind}"));
    document["$defs"] = generator.take_definitions(true).into();
    document
}

/// A resource of that kind as somebody would write it. All of them together make a tree that can be applied to the
/// organization `acme`.
pub fn example(kind: Kind) -> Value {
    let text = match kind {
        Kind::Organization => include_str!("schema/examples/organization.json"),
        Kind::Cluster => include_str!("schema/examples/cluster.json"),
        Kind::User => include_str!("schema/examples/user.json"),
        Kind::Team => include_str!("schema/examples/team.json"),
        Kind::ServiceAccount => include_str!("schema/examples/service_account.json"),
        Kind::Role => include_str!("schema/examples/role.json"),
        Kind::Tenant => include_str!("schema/examples/tenant.json"),
        Kind::Workspace => include_str!("schema/examples/workspace.json"),
        Kind::TrafficGroup => include_str!("schema/examples/traffic_group.json"),
        Kind::GatewayGroup => include_str!("schema/examples/gateway_group.json"),
        Kind::SecurityGroup => include_str!("schema/examples/security_group.json"),
        Kind::Gateway => include_str!("schema/examples/gateway.json"),
        Kind::ServiceRoute => include_str!("schema/examples/service_route.json"),
        Kind::Binding => include_str!("schema/examples/binding.json"),
        Kind::Application => include_str!("schema/examples/application.json"),
        Kind::Api => include_str!("schema/examples/api.json"),
        Kind::WasmExtension => include_str!("schema/examples/wasm_extension.json"),
        Kind::ExternalService => include_str!("schema/examples/external_service.json"),
        Kind::NetworkReachability => include_str!("schema/examples/network_reachability.json"),
        Kind::Quota => include_str!("schema/examples/quota.json"),
        Kind::Invariant => include_str!("schema/examples/invariant.json"),
        Kind::ApprovalPolicy => include_str!("schema/examples/approval_policy.json"),
        Kind::ReferenceGrant => include_str!("schema/examples/reference_grant.json"),
        Kind::ClaimOffer => include_str!("schema/examples/claim_offer.json"),
        Kind::TrafficSetting => include_str!("schema/examples/traffic_setting.json"),
        Kind::SecuritySetting => include_str!("schema/examples/security_setting.json"),
        Kind::ServiceSecuritySetting => include_str!("schema/examples/service_security_setting.json"),
    };
    serde_json::from_str(text).expect("invariant: the examples are JSON, as a test reads all of them")
}

fn spec(kind: Kind, generator: &mut SchemaGenerator) -> Schema {
    match kind {
        Kind::Organization => intent::Organization::json_schema(generator),
        Kind::Cluster => intent::Cluster::json_schema(generator),
        Kind::User => intent::User::json_schema(generator),
        Kind::Team => intent::Team::json_schema(generator),
        Kind::ServiceAccount => intent::ServiceAccount::json_schema(generator),
        Kind::Role => intent::Role::json_schema(generator),
        Kind::Tenant => intent::Tenant::json_schema(generator),
        Kind::Workspace => intent::Workspace::json_schema(generator),
        Kind::TrafficGroup | Kind::GatewayGroup | Kind::SecurityGroup => {
            intent::Group::json_schema(generator)
        }
        Kind::Gateway => intent::Gateway::json_schema(generator),
        Kind::ServiceRoute => intent::ServiceRoute::json_schema(generator),
        Kind::Binding => intent::Binding::json_schema(generator),
        Kind::Application => intent::Application::json_schema(generator),
        Kind::Api => intent::Api::json_schema(generator),
        Kind::WasmExtension => intent::WasmExtension::json_schema(generator),
        Kind::ExternalService => intent::ExternalService::json_schema(generator),
        Kind::NetworkReachability => intent::NetworkReachability::json_schema(generator),
        Kind::Quota => intent::Quota::json_schema(generator),
        Kind::Invariant => intent::Invariant::json_schema(generator),
        Kind::ApprovalPolicy => intent::ApprovalPolicy::json_schema(generator),
        Kind::ReferenceGrant => intent::ReferenceGrant::json_schema(generator),
        Kind::ClaimOffer => intent::ClaimOffer::json_schema(generator),
        Kind::TrafficSetting => setting::TrafficSetting::json_schema(generator),
        Kind::SecuritySetting => setting::SecuritySetting::json_schema(generator),
        Kind::ServiceSecuritySetting => setting::ServiceSecuritySetting::json_schema(generator),
    }
}

/// The envelope around a spec, with what the server adds to it.
fn resource(kind: Kind, generator: &mut SchemaGenerator) -> Value {
    let mut spec = spec(kind, generator);
    let about = spec.remove("description");
    let written = spec.get("required").is_some();
    let server = |schema: Value| {
        let mut schema = schema;
        schema["readOnly"] = true.into();
        schema
    };
    let mut required = vec!["name"];
    if written {
        required.push("spec");
    }
    let mut schema = json!({
        "title": kind.to_string(),
        "type": "object",
        "properties": {
            "kind": {"type": "string", "const": kind.to_string()},
            "name": {
                "description": "The path of the resource, which is its address below `/v1/`.",
                "type": "string",
                "maxLength": FQN_BYTES_MAX,
                "pattern": format!("^(?:[a-z]+/[a-z0-9-]+/)*{}/[a-z0-9-]+$", kind.collection()),
            },
            "description": {"description": "For people.", "type": "string"},
            "labels": {"description": "For programs.", "type": "object", "additionalProperties": {"type": "string"}},
            "spec": spec,
            "uid": server(json!({"description": "Of this life of the name.", "type": "string", "format": "uuid"})),
            "etag": server(json!({"description": "Which state this is; for `If-Match`.", "type": "string"})),
            "revision": server(json!({"description": "Of its last change.", "type": "integer", "minimum": 0})),
            "owner": server(json!({"description": "Who created it, or was given it since.", "type": "string"})),
            "managedBy": server(json!({"description": "Who keeps it in step with a source outside.", "type": "string"})),
            "managedRevision": server(json!({"description": "Of its manager's last write.", "type": "integer", "minimum": 0})),
            "managedFields": server(json!({
                "description": "What of it that is, as JSON pointers; without these, all of it.",
                "type": "array",
                "items": {"type": "string"},
            })),
            "createTime": server(json!({"type": "string", "format": "date-time"})),
            "updateTime": server(json!({"type": "string", "format": "date-time"})),
        },
        "required": required,
        "additionalProperties": false,
        "examples": [example(kind)],
    });
    if let Some(about) = about {
        schema["description"] = about;
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforcement::TABLE;
    use crate::intent::Resource;

    #[test]
    fn every_example_is_a_resource_of_its_kind() {
        for kind in Kind::ALL {
            let example = example(kind);
            let resource =
                Resource::from_json(example.clone()).unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert_eq!(resource.kind(), kind);
            assert_eq!(
                resource.to_json(),
                example,
                "{kind}: what is sent is what is given back"
            );
        }
    }

    /// A field without a row would be ignored in silence.
    #[test]
    fn every_field_of_every_kind_says_who_enforces_it() {
        for kind in Kind::ALL {
            let document = document(kind);
            let spec = &document["properties"]["spec"];
            // A spec of alternatives has the fields of all of them.
            let alternatives = spec["oneOf"].as_array().into_iter().flatten();
            let fields: Vec<&String> = alternatives
                .chain([spec])
                .filter_map(|spec| spec["properties"].as_object())
                .flat_map(Map::keys)
                .collect();
            let rows: Vec<&str> = TABLE
                .iter()
                .filter(|row| row.kind == kind)
                .map(|row| row.field.split(['/', '=']).next().unwrap_or_default())
                .collect();
            for field in &fields {
                let told = rows.contains(&field.as_str()) || rows.contains(&"");
                assert!(
                    told,
                    "{kind} has the field {field}, of which the table of enforcement says nothing"
                );
            }
            for row in rows.iter().filter(|row| !row.is_empty()) {
                assert!(
                    fields.iter().any(|field| field == row),
                    "the table of enforcement has {row} of {kind}, which is no field"
                );
            }
        }
    }

    #[test]
    fn components_refer_to_each_other_only() {
        let components = components();
        let text = Value::from(components.clone()).to_string();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let reference = reference.split('"').next().unwrap();
            let name = reference.strip_prefix("#/components/schemas/");
            assert!(
                name.is_some_and(|name| components.contains_key(name)),
                "{reference}"
            );
        }
    }
}
