//! `envoy.extensions.filters.http.compressor.v3.Compressor` of a listener, and what routes say in its place.

use std::mem::take;

use envoy_types::pb::envoy::config::core::v3::RuntimeFeatureFlag;
use envoy_types::pb::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::compression::gzip::compressor::v3::gzip::CompressionLevel;
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::compressor::ResponseDirectionConfig;
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::compressor_per_route::Override;
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::{
    Compressor as PbCompressor, CompressorPerRoute,
};
use envoy_types::pb::google::protobuf::Any;

use crate::decode::fields::{At, Reason, any, done, required};
use crate::filter::{Compressor, TYPES};

/// Envoy's least length of what is worth it.
const BYTES_MIN_DEFAULT: u64 = 30;
/// zlib's own, which Envoy takes where nothing is said.
const LEVEL_DEFAULT: u32 = 6;

/// None where it is off.
pub(super) fn of_listener(config: &Any) -> Result<Option<Compressor>, Reason> {
    let mut pb: PbCompressor = any(config)?;
    let mut library = required(pb.compressor_library.take()).at("compressor_library")?;
    take(&mut library.name);
    let gzip = required(library.typed_config.take()).at("compressor_library.typed_config")?;
    done(&library).at("compressor_library")?;
    let level = level(&gzip).at("compressor_library.typed_config")?;
    let answers = pb.response_direction_config.take().unwrap_or_default();
    let compressor = answers_of(answers, level).at("response_direction_config")?;
    done(&pb)?;
    Ok(compressor)
}

/// What a route can say is that it has none.
pub(super) fn of_route(config: &Any) -> Result<Option<Compressor>, Reason> {
    let mut pb: CompressorPerRoute = any(config)?;
    match pb.r#override.take() {
        Some(Override::Disabled(true)) => Ok(None),
        _ => Err("override: only disabled is supported".to_owned()),
    }
}

fn level(config: &Any) -> Result<u32, Reason> {
    let mut pb: Gzip = any(config)?;
    // How zlib would keep its memory; what is done here has its own.
    for unused in [&mut pb.memory_level, &mut pb.window_bits, &mut pb.chunk_size] {
        unused.take();
    }
    let level = match CompressionLevel::try_from(take(&mut pb.compression_level)) {
        Ok(CompressionLevel::DefaultCompression) => LEVEL_DEFAULT,
        Ok(level) => u32::try_from(level as i32).map_err(|_| "compression_level: is unknown")?,
        Err(_) => return Err("compression_level: is unknown".to_owned()),
    };
    done(&pb)?;
    Ok(level)
}

fn answers_of(mut pb: ResponseDirectionConfig, level: u32) -> Result<Option<Compressor>, Reason> {
    let mut common = pb.common_config.take().unwrap_or_default();
    let is_on = match common.enabled.take() {
        None => true,
        Some(flag) => is_on(flag).at("common_config.enabled")?,
    };
    let bytes_min = common.min_content_length.take();
    let bytes_min = bytes_min.map_or(BYTES_MIN_DEFAULT, |bytes| u64::from(bytes.value));
    #[allow(
        deprecated,
        reason = "its successor is of matchers, and who writes lists writes them here"
    )]
    let types = take(&mut common.content_type);
    let types = if types.is_empty() {
        TYPES.map(Box::from).into()
    } else {
        types.into_iter().map(String::into_boxed_str).collect()
    };
    done(&common).at("common_config")?;
    let compressor = Compressor {
        level,
        bytes_min,
        types,
        spares_etags: take(&mut pb.disable_on_etag_header),
        hides_accepted: take(&mut pb.remove_accept_encoding_header),
    };
    done(&pb)?;
    Ok(is_on.then_some(compressor))
}

/// There is no runtime.
pub(super) fn is_on(mut flag: RuntimeFeatureFlag) -> Result<bool, Reason> {
    take(&mut flag.runtime_key);
    let value = required(flag.default_value.take()).at("default_value")?.value;
    done(&flag)?;
    Ok(value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
    use envoy_types::pb::envoy::extensions::compression::brotli::compressor::v3::Brotli;
    use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::compressor::CommonDirectionConfig;
    use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
    use envoy_types::util::pack_any;

    use super::*;

    fn by(library: Any) -> PbCompressor {
        PbCompressor {
            compressor_library: Some(TypedExtensionConfig {
                name: "any".to_owned(),
                typed_config: Some(library),
            }),
            ..PbCompressor::default()
        }
    }

    fn answers(common: CommonDirectionConfig) -> PbCompressor {
        PbCompressor {
            response_direction_config: Some(ResponseDirectionConfig {
                common_config: Some(common),
                ..ResponseDirectionConfig::default()
            }),
            ..by(pack_any(Gzip::default()))
        }
    }

    #[test]
    #[allow(deprecated, reason = "as above")]
    fn what_a_listener_says_is_taken_or_refused() {
        let plain = Compressor {
            level: 6,
            bytes_min: 30,
            types: TYPES.map(Box::from).into(),
            spares_etags: false,
            hides_accepted: false,
        };
        let best = Gzip {
            compression_level: CompressionLevel::CompressionLevel9 as i32,
            window_bits: Some(UInt32Value { value: 15 }),
            ..Gzip::default()
        };
        let flag = |value| {
            Some(RuntimeFeatureFlag {
                default_value: Some(BoolValue { value }),
                runtime_key: "any".to_owned(),
            })
        };
        let off = CommonDirectionConfig {
            enabled: flag(false),
            ..CommonDirectionConfig::default()
        };
        let some = CommonDirectionConfig {
            enabled: flag(true),
            min_content_length: Some(UInt32Value { value: 100 }),
            content_type: vec!["a/b".to_owned()],
            ..CommonDirectionConfig::default()
        };
        let etags = PbCompressor {
            response_direction_config: Some(ResponseDirectionConfig {
                disable_on_etag_header: true,
                remove_accept_encoding_header: true,
                ..ResponseDirectionConfig::default()
            }),
            ..by(pack_any(Gzip::default()))
        };
        let first = PbCompressor {
            choose_first: true,
            ..by(pack_any(Gzip::default()))
        };
        let refused = |reason: &str| Err(reason.to_owned());
        for (config, expected) in [
            (by(pack_any(Gzip::default())), Ok(Some(plain.clone()))),
            (
                by(pack_any(best)),
                Ok(Some(Compressor {
                    level: 9,
                    ..plain.clone()
                })),
            ),
            (answers(off), Ok(None)),
            (
                answers(some),
                Ok(Some(Compressor {
                    bytes_min: 100,
                    types: ["a/b".into()].into(),
                    ..plain.clone()
                })),
            ),
            (
                etags,
                Ok(Some(Compressor {
                    spares_etags: true,
                    hides_accepted: true,
                    ..plain
                })),
            ),
            (
                PbCompressor::default(),
                refused("compressor_library: is required"),
            ),
            (
                by(pack_any(Brotli::default())),
                refused(
                    "compressor_library.typed_config: type.googleapis.com/envoy.extensions.compression.brotli.compressor.v3.Brotli is not supported here, expected type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip",
                ),
            ),
            (first, refused("choose_first: is not supported by this proxy")),
        ] {
            assert_eq!(of_listener(&pack_any(config.clone())), expected, "{config:?}");
        }
    }

    #[test]
    fn a_route_may_have_none() {
        let of = |said| pack_any(CompressorPerRoute { r#override: said });
        assert_eq!(of_route(&of(Some(Override::Disabled(true)))), Ok(None));
        for said in [None, Some(Override::Disabled(false))] {
            assert!(of_route(&of(said)).is_err());
        }
    }
}
