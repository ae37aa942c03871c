"""What the plugin asks of Open Collective's GraphQL API v2; each is checked against its schema."""

ACCOUNT = """
query Account($slug: String!) {
  account(slug: $slug) { id legacyId slug name }
}
"""

MEMBERS = """
query Members($slug: String!, $role: [MemberRole], $limit: Int!, $offset: Int!) {
  account(slug: $slug) {
    members(role: $role, limit: $limit, offset: $offset) {
      totalCount
      nodes { id role since account { id slug name } }
    }
  }
}
"""

ACTIVITIES = """
query Activities(
  $account: [AccountReferenceInput!], $types: [ActivityAndClassesType!], $dateFrom: DateTime,
  $limit: Int!, $offset: Int!
) {
  activities(account: $account, type: $types, dateFrom: $dateFrom, limit: $limit, offset: $offset) {
    totalCount
    nodes {
      id
      type
      createdAt
      account { slug }
      fromAccount { slug name }
      individual { slug name }
      expense {
        id legacyId status amount currency description
        payee { slug }
        createdByAccount { slug }
      }
      update { id slug title summary isPrivate }
      conversation { id slug title summary }
    }
  }
}
"""

# Webhooks are no field of what all accounts have in common.
_WITH_WEBHOOKS = ("Collective", "Fund", "Project", "Event", "Organization", "Host")
_WEBHOOKS = "webhooks(limit: $limit, offset: $offset) { totalCount nodes { id webhookUrl } }"
WEBHOOKS = f"""
query Webhooks($slug: String!, $limit: Int!, $offset: Int!) {{
  account(slug: $slug) {{
    {" ".join(f"... on {name} {{ {_WEBHOOKS} }}" for name in _WITH_WEBHOOKS)}
  }}
}}
"""

CREATE_WEBHOOK = """
mutation CreateWebhook($webhook: WebhookCreateInput!) {
  createWebhook(webhook: $webhook) { id }
}
"""

DELETE_WEBHOOK = """
mutation DeleteWebhook($webhook: WebhookReferenceInput!) {
  deleteWebhook(webhook: $webhook) { id }
}
"""

CREATE_CONVERSATION = """
mutation CreateConversation(
  $account: AccountReferenceInput!, $title: String!, $html: String!, $tags: [String]
) {
  createConversation(account: $account, title: $title, html: $html, tags: $tags) { id slug title }
}
"""

EDIT_CONVERSATION = """
mutation EditConversation($id: String!, $title: String!, $tags: [String]) {
  editConversation(id: $id, title: $title, tags: $tags) { id slug title }
}
"""

CONVERSATION = """
query Conversation($id: String!) {
  conversation(id: $id) { id slug title body { id reactions } }
}
"""

CONVERSATIONS_BY_TAG = """
query ConversationsByTag($slug: String!, $tag: String!) {
  account(slug: $slug) { conversations(tag: $tag, limit: 1) { nodes { id } } }
}
"""

COMMENTS = """
query Comments($id: String!, $limit: Int!, $offset: Int!) {
  conversation(id: $id) {
    comments(limit: $limit, offset: $offset) { totalCount nodes { id html } }
  }
}
"""

CREATE_COMMENT = """
mutation CreateComment($comment: CommentCreateInput!) {
  createComment(comment: $comment) { id createdAt }
}
"""

PROCESS_EXPENSE = """
mutation ProcessExpense(
  $expense: ExpenseReferenceInput!, $action: ExpenseProcessAction!, $message: String
) {
  processExpense(expense: $expense, action: $action, message: $message) { id legacyId status }
}
"""

ADD_REACTION = """
mutation AddReaction(
  $emoji: String!, $comment: CommentReferenceInput, $update: UpdateReferenceInput
) {
  addEmojiReaction(emoji: $emoji, comment: $comment, update: $update) {
    comment { reactions }
    update { reactions }
  }
}
"""

REMOVE_REACTION = """
mutation RemoveReaction(
  $emoji: String!, $comment: CommentReferenceInput, $update: UpdateReferenceInput
) {
  removeEmojiReaction(emoji: $emoji, comment: $comment, update: $update) {
    comment { reactions }
    update { reactions }
  }
}
"""
