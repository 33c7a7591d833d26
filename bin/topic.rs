//! `kontiki topic create|list|describe|alter|delete|trim`.
//!
//! One row per topic, whatever became of it; exit code 1 if any failed.

use crate::cli::{
    Global, TopicAlter, TopicCommand, TopicCreate, TopicDelete, TopicDescribe, TopicList, TopicSection,
    TopicTrim,
};
use crate::consume::{parse_range, select_partitions};
use crate::output::{Failure, Item, Outcome, Ui, list, pairs, table};
use kontiki::client::admin::{ConfigEntry, NewTopic, ResourceType};
use kontiki::client::{Client, Error, Member, PartitionInfo, Position, Quorum, TopicInfo};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

const TOPIC_ALREADY_EXISTS: i16 = 36;
const UNKNOWN_TOPIC: i16 = 3;

/// Runs the command.
pub async fn run(command: TopicCommand, global: &Global, ui: &Ui) -> Outcome {
    let client = crate::cluster::client(global)?;
    match command {
        TopicCommand::Create(args) => create(&client, args, ui).await,
        TopicCommand::List(args) => list_topics(&client, &args, ui).await,
        TopicCommand::Describe(args) => describe(&client, &args, ui).await,
        TopicCommand::Alter(args) => alter(&client, args, ui).await,
        TopicCommand::Delete(args) => delete(&client, &args, ui).await,
        TopicCommand::Trim(args) => trim(&client, &args, ui).await,
    }
}

/// A topic's row after create, alter or delete.
fn row(name: &str, partitions: i32, replicas: i16, result: Result<String, Error>) -> Item {
    let number = |n: i64| if n < 0 { String::new() } else { n.to_string() };
    let (code, message) = match &result {
        Ok(message) => ("OK".to_owned(), message.clone()),
        Err(Error::Kafka { message: Some(m), .. }) => {
            (result.as_ref().err().map(Error::name).unwrap_or_default(), m.clone())
        }
        Err(e) => (e.name(), e.to_string()),
    };
    let cells = vec![name.into(), number(partitions.into()), number(replicas.into()), code, message.clone()];
    let json = json!({ "topic": name, "partitions": partitions, "replicas": replicas, "message": message });
    match result {
        Ok(_) => Item::ok(cells, json),
        Err(e) => Item::failed(cells, json, e.into()),
    }
}

const ROW: [&str; 5] = ["TOPIC", "PARTITIONS", "REPLICAS", "ERROR", "MESSAGE"];

async fn create(client: &Client, args: TopicCreate, ui: &Ui) -> Outcome {
    let configs: BTreeMap<String, String> = args.configs.into_iter().collect();
    let topics: Vec<NewTopic> = args
        .topics
        .iter()
        .map(|name| NewTopic {
            name: name.clone(),
            partitions: args.partitions,
            replication_factor: args.replicas,
            configs: configs.clone(),
        })
        .collect();
    let mut items = Vec::new();
    for (name, result) in client.create_topics(&topics, args.dry_run).await? {
        items.push(match result {
            Ok(made) => {
                let note = if args.dry_run { "checked only" } else { "" };
                row(&name, made.partitions, made.replication_factor, Ok(note.into()))
            }
            Err(e) if args.if_not_exists && e.kafka_code() == Some(TOPIC_ALREADY_EXISTS) => {
                let wanted = topics.iter().find(|t| t.name == name).cloned().unwrap_or_default();
                existing(client, &wanted).await?
            }
            Err(e) => row(&name, args.partitions.unwrap_or(-1), args.replicas.unwrap_or(-1), Err(e)),
        });
    }
    ui.results(&ROW, items)
}

/// The row of a topic that is there already, saying what differs from what was asked for.
async fn existing(client: &Client, wanted: &NewTopic) -> Result<Item, Failure> {
    let topic = client.topic(&wanted.name, false, client.options().call_timeout).await?;
    let (partitions, replicas) = shape(&topic);
    let mut differs = Vec::new();
    if wanted.partitions.is_some_and(|p| p != partitions) {
        differs.push("partitions".to_owned());
    }
    if wanted.replication_factor.is_some_and(|r| r != replicas) {
        differs.push("replicas".to_owned());
    }
    if !wanted.configs.is_empty() {
        let configs = client.describe_configs(ResourceType::Topic, &wanted.name).await?;
        let value = |key: &str| configs.iter().find(|c| c.name == key).and_then(|c| c.value.as_deref());
        differs.extend(
            wanted.configs.iter().filter(|(k, v)| value(k) != Some(v.as_str())).map(|(k, _)| k.clone()),
        );
    }
    let message = match differs.is_empty() {
        true => "already exists, configuration equal".to_owned(),
        false => format!("already exists, differs in {}", differs.join(" ")),
    };
    Ok(row(&wanted.name, partitions, replicas, Ok(message)))
}

fn shape(topic: &TopicInfo) -> (i32, i16) {
    let replicas = topic.partitions.iter().map(|p| p.replicas.len()).max().unwrap_or(0);
    (topic.partitions.len() as i32, i16::try_from(replicas).unwrap_or(i16::MAX))
}

async fn list_topics(client: &Client, args: &TopicList, ui: &Ui) -> Outcome {
    let metadata = client.fresh_metadata().await?;
    let topics: Vec<&TopicInfo> = metadata.topics.values().filter(|t| args.internal || !t.internal).collect();
    if ui.is_json() {
        let items = topics.iter().map(|t| {
            let (partitions, replicas) = shape(t);
            json!({ "topic": t.name, "id": t.id, "partitions": partitions, "replicas": replicas, "internal": t.internal })
        });
        ui.json_items(items.collect())?;
    } else {
        let rows: Vec<Vec<String>> = topics
            .iter()
            .map(|t| {
                let (partitions, replicas) = shape(t);
                vec![t.name.clone(), partitions.to_string(), replicas.to_string()]
            })
            .collect();
        ui.out(&table(&["TOPIC", "PARTITIONS", "REPLICAS"], &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything `describe` shows of a topic.
struct Described {
    topic: TopicInfo,
    starts: BTreeMap<i32, i64>,
    ends: BTreeMap<i32, i64>,
    configs: Vec<ConfigEntry>,
    quorums: BTreeMap<i32, Quorum>,
}

async fn describe(client: &Client, args: &TopicDescribe, ui: &Ui) -> Outcome {
    let default = [TopicSection::Summary, TopicSection::Partitions];
    let sections: &[TopicSection] = if args.section.is_empty() { &default } else { &args.section };
    let mut items = Vec::new();
    for (i, name) in args.topics.iter().enumerate() {
        let described = look(client, name, sections).await?;
        if ui.is_json() {
            items.push(described.to_json(sections));
        } else {
            let gap = if i > 0 { "\n" } else { "" };
            ui.out(&format!("{gap}{}", described.to_text(sections)))?;
        }
    }
    if ui.is_json() {
        ui.json_items(items)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn look(client: &Client, name: &str, sections: &[TopicSection]) -> Result<Described, Failure> {
    let topic = client.topic(name, false, client.options().call_timeout).await?;
    let (mut starts, mut ends, mut configs) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    // Partitions without leader cannot tell; they are shown all the same.
    let led: Vec<i32> = topic.partitions.iter().filter(|p| p.leader >= 0).map(|p| p.index).collect();
    if sections.contains(&TopicSection::Partitions) && !led.is_empty() {
        starts = client.start_offsets(name, &led).await?;
        ends = client.end_offsets(name, &led).await?;
    }
    let mut quorums = BTreeMap::new();
    if sections.contains(&TopicSection::Replicas) && !led.is_empty() {
        quorums = client.describe_quorum(name, &led).await.map_err(|e| match e.kafka_code() {
            // The topic was there a moment ago.
            Some(UNKNOWN_TOPIC) => {
                Failure::new("UNSUPPORTED", "these brokers do not tell who votes in a partition")
                    .with_hint("Kontiki's do; --section partitions works with any Kafka")
            }
            _ => e.into(),
        })?;
    }
    if sections.contains(&TopicSection::Configs) || sections.contains(&TopicSection::Summary) {
        configs = client.describe_configs(ResourceType::Topic, name).await?;
    }
    Ok(Described { topic, starts, ends, configs, quorums })
}

impl Described {
    fn to_text(&self, sections: &[TopicSection]) -> String {
        let mut parts = Vec::new();
        for section in sections {
            parts.push(match section {
                TopicSection::Summary => self.summary(),
                TopicSection::Partitions => self.partitions(),
                TopicSection::Configs => self.configs(),
                TopicSection::Replicas => self.replicas(),
            });
        }
        parts.join("\n")
    }

    fn summary(&self) -> String {
        let (partitions, replicas) = shape(&self.topic);
        let set = self.configs.iter().filter(|c| c.source == 1);
        let set: Vec<String> =
            set.map(|c| format!("{}={}", c.name, c.value.as_deref().unwrap_or("-"))).collect();
        let id = if self.topic.id.is_nil() { String::new() } else { self.topic.id.to_string() };
        pairs(&[
            ("TOPIC", self.topic.name.clone()),
            ("ID", id),
            ("PARTITIONS", partitions.to_string()),
            ("REPLICAS", replicas.to_string()),
            ("CONFIGS", set.join(" ")),
        ])
    }

    fn partitions(&self) -> String {
        let optional = |n: Option<&i64>| n.map_or(String::new(), i64::to_string);
        let rows: Vec<Vec<String>> = self
            .topic
            .partitions
            .iter()
            .map(|p| {
                let number = |n: i32| if n < 0 { String::new() } else { n.to_string() };
                vec![
                    p.index.to_string(),
                    number(p.leader),
                    number(p.epoch),
                    list(&p.replicas),
                    list(&p.in_sync),
                    list(&p.offline),
                    optional(self.starts.get(&p.index)),
                    optional(self.ends.get(&p.index)),
                ]
            })
            .collect();
        table(&["PARTITION", "LEADER", "EPOCH", "REPLICAS", "IN-SYNC", "OFFLINE", "START", "END"], &rows)
    }

    fn replicas(&self) -> String {
        let now = jiff::Timestamp::now().as_millisecond();
        let known = |n: i64| if n < 0 { String::new() } else { n.to_string() };
        // To a tenth of a second: both clocks may be off by as much.
        let ago = |ms: i64| match ms {
            ..0 => "never".to_owned(),
            _ => format!("{:.1} s ago", (now - ms).max(0) as f64 / 1000.0),
        };
        let mut rows = Vec::new();
        for p in &self.topic.partitions {
            let Some(quorum) = self.quorums.get(&p.index) else {
                rows.extend(p.replicas.iter().map(|node| {
                    let mut cells =
                        vec![p.index.to_string(), String::new(), node.to_string(), "no leader".into()];
                    cells.resize(8, String::new());
                    cells
                }));
                continue;
            };
            let generation = quorum.generation.map_or(String::new(), |g| g.to_string());
            for (node, role, member) in roles(&p.replicas, quorum) {
                let end = member.map_or(-1, |m| m.end);
                let leader_end = quorum.end();
                rows.push(vec![
                    p.index.to_string(),
                    generation.clone(),
                    node.to_string(),
                    role.to_owned(),
                    known(end),
                    if end < 0 || leader_end < 0 {
                        String::new()
                    } else {
                        (leader_end - end).max(0).to_string()
                    },
                    member.map_or(String::new(), |m| ago(m.heard_ms)),
                    member.map_or(String::new(), |m| ago(m.caught_up_ms)),
                ]);
            }
        }
        let head = ["PARTITION", "GENERATION", "REPLICA", "ROLE", "END", "LAG", "HEARD", "CAUGHT-UP"];
        table(&head, &rows)
    }

    fn configs(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .configs
            .iter()
            .map(|c| vec![c.name.clone(), c.value.clone().unwrap_or_default(), c.source_name().into()])
            .collect();
        table(&["KEY", "VALUE", "SOURCE"], &rows)
    }

    fn to_json(&self, sections: &[TopicSection]) -> Value {
        let (partitions, replicas) = shape(&self.topic);
        let mut json = json!({ "topic": self.topic.name, "id": self.topic.id, "partition_count": partitions, "replicas": replicas });
        if sections.contains(&TopicSection::Partitions) {
            let rows = self.topic.partitions.iter().map(|p| {
                json!({
                    "partition": p.index, "leader": p.leader, "epoch": p.epoch, "replicas": p.replicas,
                    "in_sync": p.in_sync, "offline": p.offline,
                    "start": self.starts.get(&p.index), "end": self.ends.get(&p.index),
                })
            });
            json["partitions"] = rows.collect();
        }
        if sections.contains(&TopicSection::Replicas) {
            let members = |p: &PartitionInfo| -> Value {
                let Some(quorum) = self.quorums.get(&p.index) else { return Value::Null };
                let rows = roles(&p.replicas, quorum).into_iter().map(|(node, role, member)| {
                    json!({
                        "replica": node, "role": role, "end": member.map(|m| m.end),
                        "heard_ms": member.map(|m| m.heard_ms), "caught_up_ms": member.map(|m| m.caught_up_ms),
                    })
                });
                rows.collect()
            };
            let rows = self.topic.partitions.iter().map(|p| {
                let quorum = self.quorums.get(&p.index);
                json!({
                    "partition": p.index, "generation": quorum.and_then(|q| q.generation),
                    "joint": quorum.map(|q| q.is_joint), "high_watermark": quorum.map(|q| q.high_watermark),
                    "members": members(p),
                })
            });
            json["groups"] = rows.collect();
        }
        let rows = self.configs.iter().filter(|c| sections.contains(&TopicSection::Configs) || c.source == 1).map(|c| {
            json!({ "key": c.name, "value": c.value, "source": c.source_name(), "read_only": c.read_only })
        });
        json["configs"] = rows.collect();
        json
    }
}

/// What each replica is: those the metadata names, and those that are members all the same.
fn roles(replicas: &[i32], quorum: &Quorum) -> Vec<(i32, &'static str, Option<Member>)> {
    let mut rows: Vec<(i32, &'static str, Option<Member>)> = Vec::new();
    for member in &quorum.voters {
        let role = if member.node == quorum.leader { "leader" } else { "voter" };
        rows.push((member.node, role, Some(*member)));
    }
    rows.extend(quorum.learners.iter().map(|member| (member.node, "learner", Some(*member))));
    for node in replicas {
        if rows.iter().all(|row| row.0 != *node) {
            rows.push((*node, "not a member", None));
        }
    }
    rows.sort_by_key(|row| row.0);
    rows
}

async fn alter(client: &Client, args: TopicAlter, ui: &Ui) -> Outcome {
    let mut changes: Vec<(String, Option<String>)> =
        args.set.into_iter().map(|(k, v)| (k, Some(v))).collect();
    changes.extend(args.delete.into_iter().map(|k| (k, None)));
    if changes.is_empty() && args.partitions.is_none() {
        return Err(
            Failure::usage("nothing to alter").with_hint("--set KEY=VALUE, --delete KEY or --partitions N")
        );
    }
    let mut done = Ok(String::new());
    if !changes.is_empty() {
        done = client
            .alter_configs(ResourceType::Topic, &args.topic, &changes, args.dry_run)
            .await
            .map(|()| changes.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>().join(" "));
    }
    if let (Some(count), true) = (args.partitions, done.is_ok()) {
        let raised = client.create_partitions(&args.topic, count, args.dry_run).await;
        done = raised.map(|()| format!("{} partitions={count}", done.unwrap_or_default()).trim().to_owned());
    }
    let done = done.map(|what| if args.dry_run { format!("{what} (checked only)") } else { what });
    let known = client.topic(&args.topic, false, client.options().call_timeout).await;
    let (partitions, replicas) = known.map_or((-1, -1), |t| shape(&t));
    ui.results(&ROW, vec![row(&args.topic, partitions, replicas, done)])
}

async fn delete(client: &Client, args: &TopicDelete, ui: &Ui) -> Outcome {
    let results = client.delete_topics(&args.topics).await?;
    let items = results.into_iter().map(|(name, result)| match result {
        Err(e) if args.if_exists && e.kafka_code() == Some(UNKNOWN_TOPIC) => {
            row(&name, -1, -1, Ok("does not exist".into()))
        }
        result => row(&name, -1, -1, result.map(|()| "deleted".into())),
    });
    ui.results(&ROW, items.collect())
}

async fn trim(client: &Client, args: &TopicTrim, ui: &Ui) -> Outcome {
    let range = parse_range(&args.offset)?;
    if range.until.is_some() {
        return Err(Failure::usage(format!("`{}` is a range, not an offset", args.offset)));
    }
    let topic = client.topic(&args.topic, false, client.options().call_timeout).await?;
    let partitions = select_partitions(&topic, &args.partitions)?;
    let before = client.start_offsets(&args.topic, &partitions).await?;
    let below = match range.from {
        // The broker's own "everything": nothing committed in between is missed.
        Position::End => partitions.iter().map(|p| (*p, -1)).collect(),
        position => client.resolve(&args.topic, &partitions, position).await?,
    };
    let after = client.delete_records(&args.topic, &below).await?;
    let items = partitions.iter().map(|p| {
        let (from, to) = (before.get(p).copied().unwrap_or(-1), after.get(p).copied().unwrap_or(-1));
        let cells = vec![args.topic.clone(), p.to_string(), from.to_string(), to.to_string()];
        Item::ok(cells, json!({ "topic": args.topic, "partition": p, "from": from, "to": to }))
    });
    ui.results(&["TOPIC", "PARTITION", "START-BEFORE", "START"], items.collect())
}
