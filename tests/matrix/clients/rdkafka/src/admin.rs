//! The job `admin`: everything the contract names, to a topic of its own and a group that it is in.

use crate::{CALL, Done, Run};
use futures_executor::block_on;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

struct Admin {
    client: AdminClient<DefaultClientContext>,
    topic: String,
}

/// The one row of an answer about one resource.
fn one<T>(rows: Vec<Result<T, (String, RDKafkaErrorCode)>>) -> Done<T> {
    let row = rows.into_iter().next().ok_or("an answer without a row")?;
    row.map_err(|(name, error)| format!("{name}: {error}").into())
}

impl Admin {
    fn options(&self) -> AdminOptions {
        AdminOptions::new().operation_timeout(Some(CALL))
    }

    fn config(&self) -> Done<Option<String>> {
        let topic = ResourceSpecifier::Topic(&self.topic);
        let rows = block_on(self.client.describe_configs([&topic], &self.options()))?;
        let described = rows.into_iter().next().ok_or("an answer without a row")?;
        Ok(described?.get("retention.ms").and_then(|entry| entry.value.clone()))
    }

    /// All topics, and how many partitions each has.
    fn topics(&self) -> Done<Vec<(String, usize)>> {
        let metadata = self.client.inner().fetch_metadata(None, CALL)?;
        Ok(metadata
            .topics()
            .iter()
            .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
            .collect())
    }

    /// State and number of members of each group, or of one.
    fn groups(&self, group: Option<&str>) -> Done<Vec<(String, String, usize)>> {
        let list = self.client.inner().fetch_group_list(group, CALL)?;
        let row = |group: &rdkafka::groups::GroupInfo| {
            (group.name().to_owned(), group.state().to_owned(), group.members().len())
        };
        Ok(list.groups().iter().map(row).collect())
    }
}

impl Run {
    pub fn admin(&self) -> Done {
        let admin = Admin { client: self.config().create()?, topic: self.topic.clone() };
        let options = &admin.options();
        let has_partitions = |wanted: usize| {
            self.await_that("the topic's partitions", || {
                Ok(admin.topics()?.contains(&(self.topic.clone(), wanted)))
            })
        };
        let has_config = |wanted: &str| {
            self.await_that("the topic's configuration", || Ok(admin.config()?.as_deref() == Some(wanted)))
        };
        let topic = NewTopic::new(&self.topic, self.partitions as i32, TopicReplication::Fixed(-1));
        one(block_on(admin.client.create_topics([&topic.set("retention.ms", "3600000")], options))?)?;
        has_partitions(self.partitions)?;
        has_config("3600000")?;
        let altered = AlterConfig::new(ResourceSpecifier::Topic(&self.topic)).set("retention.ms", "7200000");
        let rows = block_on(admin.client.alter_configs([&altered], options))?;
        rows.into_iter().try_for_each(|row| row.map(drop)).map_err(|(_, error)| error)?;
        has_config("7200000")?;
        let grown = NewPartitions::new(&self.topic, self.partitions + 2);
        one(block_on(admin.client.create_partitions([&grown], options))?)?;
        has_partitions(self.partitions + 2)?;
        let mut member = self.join("member", &[])?;
        self.await_that("a member", || member.poll().map(|()| !member.held().is_empty()))?;
        if !admin.groups(None)?.iter().any(|(name, _, _)| *name == self.group) {
            return Err("the group is not listed".into());
        }
        let stable = vec![(self.group.clone(), "Stable".to_owned(), 1)];
        self.await_that("a stable group of one", || {
            member.poll()?;
            Ok(admin.groups(Some(&self.group))? == stable)
        })?;
        drop(member);
        one(block_on(admin.client.delete_topics(&[&self.topic], options))?)?;
        self.await_that("the topic goes", || Ok(admin.topics()?.iter().all(|(name, _)| *name != self.topic)))
    }
}
