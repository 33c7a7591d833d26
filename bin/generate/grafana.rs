//! The dashboard for Grafana: rows of panels over the metrics of `/metrics`, as a table here and as Grafana's JSON outside.
//!
//! Not here: the metrics (`broker::http`, `broker::metrics`). Invariant: every name in an expression is one that a node gives, which
//! `tests/nodes.rs` holds against a live one.

use serde_json::{Value, json};

/// Version of Grafana's dashboard schema that this is written for (Grafana 10); newer ones take it over.
const SCHEMA: u32 = 38;
/// Panels are this high and the page is this wide, in Grafana's units.
const HEIGHT: usize = 8;
const WIDTH: usize = 24;

/// One panel.
struct Panel {
    title: &'static str,
    help: &'static str,
    /// By Grafana's name.
    unit: &'static str,
    show: Show,
    /// Expression and legend of each line.
    lines: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, PartialEq)]
enum Show {
    /// A number that is what it is.
    Number,
    /// A number that is to be zero.
    Zero,
    /// Over time.
    Lines,
}

const fn zero(
    title: &'static str,
    help: &'static str,
    lines: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, help, unit: "none", show: Show::Zero, lines }
}

const fn lines(
    title: &'static str,
    unit: &'static str,
    help: &'static str,
    lines: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, help, unit, show: Show::Lines, lines }
}

const ROWS: &[(&str, &[Panel])] = &[
    (
        "Health",
        &[
            Panel {
                title: "Brokers alive",
                help: "As the controllers have it.",
                unit: "none",
                show: Show::Number,
                lines: &[("max(kafka_brokers)", "")],
            },
            Panel {
                title: "Controller",
                help: "Node that leads the controllers; -1: none.",
                unit: "none",
                show: Show::Number,
                lines: &[("max(kontiki_controller)", "")],
            },
            zero(
                "Leaderless partitions",
                "Nobody can write to them or read from them.",
                &[("max(kontiki_leaderless_partitions)", "")],
            ),
            zero(
                "Under-replicated partitions",
                "Some replica is dead or behind.",
                &[("sum(max by (topic, partition) (kafka_topic_partition_under_replicated_partition))", "")],
            ),
            zero(
                "Waiting partitions",
                "They lost their majority: see docs/operations.md, Losing a majority.",
                &[("max(kontiki_waiting_partitions)", "")],
            ),
            zero(
                "Damaged replicas",
                "Held out until they are repaired from others.",
                &[("sum(kontiki_damaged_replicas)", "")],
            ),
            zero(
                "Disks failed or full",
                "Failed ones are offline for good; full ones refuse to be written to.",
                &[("sum(kontiki_storage_failed) + sum(kontiki_disk_full)", "")],
            ),
            zero(
                "Metadata differs",
                "Nodes whose metadata is not what a snapshot says: a fault, see docs/operations.md.",
                &[("sum(kontiki_metadata_differs)", "")],
            ),
        ],
    ),
    (
        "Traffic",
        &[
            lines(
                "Records written",
                "cps",
                "By topic: how fast the high watermarks move.",
                &[(
                    "sum by (topic) (max by (topic, partition) (rate(kafka_topic_partition_current_offset{topic=~\"$topic\"}[$__rate_interval])))",
                    "{{topic}}",
                )],
            ),
            lines(
                "Bytes from and to clients",
                "Bps",
                "By node.",
                &[
                    ("rate(kontiki_bytes_in_total[$__rate_interval])", "in {{instance}}"),
                    ("rate(kontiki_bytes_out_total[$__rate_interval])", "out {{instance}}"),
                ],
            ),
            lines(
                "Requests",
                "reqps",
                "By API, all nodes.",
                &[(
                    "sum by (api) (rate(kontiki_request_duration_seconds_count[$__rate_interval]))",
                    "{{api}}",
                )],
            ),
            lines(
                "Time of Produce, 99th percentile",
                "s",
                "From the last byte of the request to the answer: with acks=all that is an fsync on a majority.",
                &[(
                    "histogram_quantile(0.99, sum by (le, instance) (rate(kontiki_request_duration_seconds_bucket{api=\"Produce\"}[$__rate_interval])))",
                    "{{instance}}",
                )],
            ),
            lines(
                "Mean time of a request",
                "s",
                "By API. A Fetch that waits for records is counted with its wait.",
                &[(
                    "sum by (api) (rate(kontiki_request_duration_seconds_sum[$__rate_interval])) / sum by (api) (rate(kontiki_request_duration_seconds_count[$__rate_interval]))",
                    "{{api}}",
                )],
            ),
            lines(
                "Bytes between nodes",
                "Bps",
                "What each node writes to the others.",
                &[(
                    "sum by (instance) (rate(kontiki_peer_bytes_out_total[$__rate_interval]))",
                    "{{instance}}",
                )],
            ),
            lines(
                "Connections",
                "none",
                "Open ones of clients, by node.",
                &[("kontiki_connections", "{{instance}}")],
            ),
            lines(
                "Connections refused or faulted",
                "cps",
                "Refused by a limit; closed for a request that is malformed or not supported.",
                &[
                    ("rate(kontiki_connections_refused_total[$__rate_interval])", "refused {{instance}}"),
                    ("rate(kontiki_connections_faulted_total[$__rate_interval])", "faulted {{instance}}"),
                ],
            ),
        ],
    ),
    (
        "Partitions and disks",
        &[
            lines(
                "Bytes held",
                "bytes",
                "By topic, all replicas.",
                &[("sum by (topic) (kontiki_partition_size_bytes{topic=~\"$topic\"})", "{{topic}}")],
            ),
            lines(
                "Records held",
                "short",
                "By topic: from the log start to the high watermark.",
                &[(
                    "sum by (topic) (max by (topic, partition) (kafka_topic_partition_current_offset{topic=~\"$topic\"} - kafka_topic_partition_oldest_offset{topic=~\"$topic\"}))",
                    "{{topic}}",
                )],
            ),
            lines(
                "Leaders and replicas",
                "none",
                "By node.",
                &[("kontiki_leaders", "leads {{instance}}"), ("kontiki_replicas", "holds {{instance}}")],
            ),
            lines(
                "Leaders not preferred",
                "none",
                "Partitions led by another than their first replica.",
                &[(
                    "sum(1 - min by (topic, partition) (kafka_topic_partition_leader_is_preferred{topic=~\"$topic\"}))",
                    "partitions",
                )],
            ),
            lines(
                "Scrub",
                "Bps",
                "Segments read and verified in the background.",
                &[("rate(kontiki_scrub_bytes_total[$__rate_interval])", "{{instance}}")],
            ),
            lines(
                "Damage and loss",
                "none",
                "Segments in which the scrub found damage; elections that may have lost acknowledged records (flush.mode=async).",
                &[
                    ("kontiki_scrub_damaged_total", "damaged {{instance}}"),
                    ("kontiki_unclean_recoveries_total", "unclean {{instance}}"),
                ],
            ),
        ],
    ),
    (
        "Consumer groups",
        &[
            lines(
                "Lag",
                "short",
                "Records between what a group has committed and the end, by group and topic.",
                &[(
                    "sum by (consumergroup, topic) (clamp_min(max by (topic, partition) (kafka_topic_partition_current_offset{topic=~\"$topic\"}) - on (topic, partition) group_right max by (consumergroup, topic, partition) (kafka_consumergroup_current_offset{topic=~\"$topic\"}), 0))",
                    "{{consumergroup}} {{topic}}",
                )],
            ),
            lines(
                "Records committed",
                "cps",
                "By group and topic.",
                &[(
                    "sum by (consumergroup, topic) (clamp_min(deriv(kafka_consumergroup_current_offset{topic=~\"$topic\"}[$__rate_interval]), 0))",
                    "{{consumergroup}} {{topic}}",
                )],
            ),
            lines(
                "Members",
                "none",
                "By group.",
                &[("max by (consumergroup) (kafka_consumergroup_members)", "{{consumergroup}}")],
            ),
            lines(
                "Groups not shown",
                "none",
                "A broker shows its first 200 groups and 5,000 offsets.",
                &[("kontiki_consumergroups_left_out", "{{instance}}")],
            ),
        ],
    ),
    (
        "Processes",
        &[
            lines("Memory", "bytes", "Resident.", &[("process_resident_memory_bytes", "{{instance}}")]),
            lines(
                "CPU",
                "none",
                "Cores in use.",
                &[("rate(process_cpu_seconds_total[$__rate_interval])", "{{instance}}")],
            ),
            lines("Open files", "none", "Descriptors.", &[("process_open_fds", "{{instance}}")]),
        ],
    ),
];

/// The dashboard.
pub fn dashboard() -> Value {
    let mut panels = Vec::new();
    let mut y = 0;
    for (title, row) in ROWS {
        panels.push(json!({
            "type": "row", "title": title, "collapsed": false, "id": panels.len() + 1, "panels": [],
            "gridPos": { "x": 0, "y": y, "w": WIDTH, "h": 1 },
        }));
        y += 1;
        let mut x = 0;
        for panel in *row {
            let (width, height) = match panel.show {
                Show::Lines => (WIDTH / 2, HEIGHT),
                Show::Number | Show::Zero => (WIDTH / 8, HEIGHT / 2),
            };
            if x + width > WIDTH {
                (x, y) = (0, y + height);
            }
            panels.push(panel_json(
                panel,
                panels.len() + 1,
                json!({ "x": x, "y": y, "w": width, "h": height }),
            ));
            x += width;
        }
        y += HEIGHT;
    }
    json!({
        "title": "Kontiki", "uid": "kontiki", "tags": ["kontiki", "kafka"], "schemaVersion": SCHEMA, "version": 1,
        "editable": true, "refresh": "10s", "time": { "from": "now-1h", "to": "now" }, "timezone": "",
        "templating": { "list": [
            { "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus" },
            { "name": "topic", "label": "Topic", "type": "query", "datasource": source(), "refresh": 2, "sort": 1,
              "definition": "label_values(kafka_topic_partitions, topic)",
              "query": { "query": "label_values(kafka_topic_partitions, topic)", "refId": "topic" },
              "includeAll": true, "multi": true, "allValue": ".*",
              "current": { "text": ["All"], "value": ["$__all"] } },
        ] },
        "panels": panels,
    })
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn panel_json(panel: &Panel, id: usize, place: Value) -> Value {
    let targets = panel.lines.iter().enumerate().map(|(n, (expression, legend))| {
        // A, B, C: no panel has more.
        let name = char::from(b'A' + n as u8).to_string();
        let is_now = panel.show != Show::Lines;
        json!({ "refId": name, "datasource": source(), "expr": expression, "legendFormat": legend, "instant": is_now, "range": !is_now })
    });
    let steps = match panel.show {
        Show::Zero => json!([{ "color": "green", "value": null }, { "color": "red", "value": 1 }]),
        Show::Number => json!([{ "color": "blue", "value": null }]),
        Show::Lines => json!([{ "color": "green", "value": null }]),
    };
    let (kind, options) = match panel.show {
        Show::Lines => (
            "timeseries",
            json!({ "legend": { "showLegend": true, "displayMode": "list", "placement": "bottom" }, "tooltip": { "mode": "multi" } }),
        ),
        _ => ("stat", json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "colorMode": "value" })),
    };
    json!({
        "id": id, "type": kind, "title": panel.title, "description": panel.help, "datasource": source(), "gridPos": place,
        "targets": targets.collect::<Vec<_>>(), "options": options,
        "fieldConfig": {
            "defaults": { "unit": panel.unit, "thresholds": { "mode": "absolute", "steps": steps } }, "overrides": [],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_have_ids_of_their_own_and_do_not_overlap() {
        let dashboard = dashboard();
        let panels = dashboard["panels"].as_array().unwrap();
        let mut taken = std::collections::BTreeSet::new();
        let mut ids = std::collections::BTreeSet::new();
        for panel in panels {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
            let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            assert!(side("x") + side("w") <= WIDTH as u64, "{panel}");
            for x in side("x")..side("x") + side("w") {
                for y in side("y")..side("y") + side("h") {
                    assert!(taken.insert((x, y)), "{} lies on another", panel["title"]);
                }
            }
        }
        assert_eq!(ids.len(), ROWS.iter().map(|(_, row)| row.len() + 1).sum::<usize>());
    }
}
