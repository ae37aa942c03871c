"""What the Open Collective twin serves of the platform's GraphQL API v2."""

from __future__ import annotations

from graphql import GraphQLSchema, build_schema

from sandbox.opencollective.webhooks import WEBHOOK_TYPES

SDL = f"""
scalar DateTime
scalar JSON
scalar URL
enum ActivityType {{ {" ".join(WEBHOOK_TYPES)} }}
enum ActivityAndClassesType {{ {" ".join(WEBHOOK_TYPES)} }}
enum Currency {{ USD }}
enum ExpenseStatus {{
  DRAFT UNVERIFIED PENDING INCOMPLETE APPROVED REJECTED PROCESSING ERROR PAID
  SCHEDULED_FOR_PAYMENT SPAM CANCELED INVITE_DECLINED
}}
enum ExpenseProcessAction {{
  APPROVE UNAPPROVE REQUEST_RE_APPROVAL REJECT MARK_AS_UNPAID SCHEDULE_FOR_PAYMENT
  UNSCHEDULE_PAYMENT PAY MARK_AS_PAID_WITH_STRIPE MARK_AS_SPAM MARK_AS_INCOMPLETE HOLD RELEASE
  DECLINE_INVITED_EXPENSE
}}
enum MemberRole {{
  BACKER ADMIN CONTRIBUTOR HOST ATTENDEE MEMBER COMMUNITY_MANAGER FOLLOWER ACCOUNTANT
  CONNECTED_ACCOUNT
}}
input AccountReferenceInput {{ id: String legacyId: Int slug: String }}
input CommentReferenceInput {{ id: String }}
input ConversationReferenceInput {{ id: String legacyId: Int }}
input ExpenseReferenceInput {{ id: String legacyId: Int }}
input UpdateReferenceInput {{ id: String }}
input WebhookReferenceInput {{ id: String legacyId: Int }}
input CommentCreateInput {{
  html: String
  conversation: ConversationReferenceInput
  expense: ExpenseReferenceInput
  update: UpdateReferenceInput
}}
input WebhookCreateInput {{
  account: AccountReferenceInput!
  activityType: ActivityType! = ACTIVITY_ALL
  webhookUrl: URL!
}}
interface Account {{
  id: String!
  legacyId: Int!
  slug: String!
  name: String
  members(role: [MemberRole], limit: Int! = 100, offset: Int! = 0): MemberCollection!
  conversations(tag: String, limit: Int! = 15, offset: Int! = 0): ConversationCollection!
}}
{
    "".join(
        f'''
type {name} implements Account {{
  id: String!
  legacyId: Int!
  slug: String!
  name: String
  members(role: [MemberRole], limit: Int! = 100, offset: Int! = 0): MemberCollection!
  conversations(tag: String, limit: Int! = 15, offset: Int! = 0): ConversationCollection!
  webhooks(limit: Int! = 10, offset: Int! = 0): WebhookCollection!
}}
'''
        for name in ("Collective", "Event", "Fund", "Host", "Individual", "Organization", "Project")
    )
}
type Comment {{
  id: String
  publicId: String!
  html: String
  createdAt: DateTime
  fromAccount: Account
  reactions: JSON
  userReactions: [String]
}}
type CommentCollection {{ totalCount: Int nodes: [Comment] }}
type Conversation {{
  id: String!
  publicId: String!
  slug: String!
  title: String!
  summary: String!
  tags: [String]
  body: Comment
  comments(limit: Int! = 150, offset: Int! = 0): CommentCollection!
}}
type ConversationCollection {{ totalCount: Int nodes: [Conversation] }}
type Expense {{
  id: String!
  legacyId: Int!
  status: ExpenseStatus!
  amount: Int!
  currency: Currency!
  description: String!
  payee: Account!
  createdByAccount: Account
}}
type Update {{
  id: String!
  slug: String!
  title: String!
  summary: String
  isPrivate: Boolean!
  reactions: JSON
}}
type Member {{ id: String! publicId: String! role: MemberRole! since: DateTime! account: Account }}
type MemberCollection {{ totalCount: Int nodes: [Member] }}
type Webhook {{ id: String! publicId: String! activityType: ActivityType webhookUrl: URL }}
type WebhookCollection {{ totalCount: Int nodes: [Webhook] }}
type Activity {{
  id: String!
  type: ActivityType!
  createdAt: DateTime!
  account: Account
  fromAccount: Account
  individual: Individual
  expense: Expense
  update: Update
  conversation: Conversation
}}
type ActivityCollection {{ totalCount: Int nodes: [Activity!] }}
type EmojiReactionResponse {{ comment: Comment update: Update }}
type Query {{
  account(slug: String): Account
  conversation(id: String!): Conversation
  expense(expense: ExpenseReferenceInput): Expense
  activities(
    account: [AccountReferenceInput!], type: [ActivityAndClassesType!], dateFrom: DateTime,
    limit: Int! = 100, offset: Int! = 0
  ): ActivityCollection!
}}
type Mutation {{
  createConversation(
    account: AccountReferenceInput, title: String!, html: String!, tags: [String]
  ): Conversation
  editConversation(id: String!, title: String!, tags: [String]): Conversation
  createComment(comment: CommentCreateInput!): Comment
  deleteComment(id: String!): Comment
  addEmojiReaction(
    emoji: String!, comment: CommentReferenceInput, update: UpdateReferenceInput
  ): EmojiReactionResponse!
  removeEmojiReaction(
    emoji: String!, comment: CommentReferenceInput, update: UpdateReferenceInput
  ): EmojiReactionResponse!
  processExpense(
    expense: ExpenseReferenceInput!, action: ExpenseProcessAction!, message: String
  ): Expense!
  createWebhook(webhook: WebhookCreateInput!): Webhook
  deleteWebhook(webhook: WebhookReferenceInput!): Webhook
}}
"""
SCHEMA: GraphQLSchema = build_schema(SDL)
