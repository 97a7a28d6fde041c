# mypy: disable-error-code="type-arg"
from . import cluster_pb2 as _cluster_pb2
from . import common_pb2 as _common_pb2
from . import dns_pb2 as _dns_pb2
from . import file_pb2 as _file_pb2
from . import resume_key_pb2 as _resume_key_pb2
from . import volume_pb2 as _volume_pb2
from . import witness_pb2 as _witness_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Envelope(_message.Message):
    __slots__ = ("call", "is_reply", "data_bytes", "trace", "failure", "done", "ping", "pong", "hello", "hello_reply", "open", "open_reply", "close", "info_reply", "reclaim", "reclaim_reply", "read", "read_reply", "write", "write_reply", "flush", "truncate", "lock", "unlock", "stat", "set_info", "mkdir", "rmdir", "unlink", "rename", "read_dir", "read_dir_reply", "write_file", "read_file", "read_file_reply", "abandon", "abandon_reply", "end_client", "handle_closed", "change_locks", "locks_changed", "write_parts", "register_node", "register_node_reply", "acquire_token", "token_reply", "fetch_extents", "extents_reply", "commit_records", "disconnected", "recall", "detach", "commit_reply", "lock_update", "query_size", "size_reply", "report_corrupt", "follow", "follow_reply", "entries", "followed", "checkpoint_taken", "hand_back", "hand_back_reply", "get_interface_list", "interface_list", "register_witness", "register_witness_reply", "async_notify", "notification", "unregister_witness", "register_member", "register_member_reply", "set_members", "list_members", "member_list", "cluster_status", "cluster_status_reply", "part_state", "part_state_reply", "list_corrupt", "corrupt_list")
    CALL_FIELD_NUMBER: _ClassVar[int]
    IS_REPLY_FIELD_NUMBER: _ClassVar[int]
    DATA_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HELLO_REPLY_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    OPEN_REPLY_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    INFO_REPLY_FIELD_NUMBER: _ClassVar[int]
    RECLAIM_FIELD_NUMBER: _ClassVar[int]
    RECLAIM_REPLY_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    READ_REPLY_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    WRITE_REPLY_FIELD_NUMBER: _ClassVar[int]
    FLUSH_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_FIELD_NUMBER: _ClassVar[int]
    LOCK_FIELD_NUMBER: _ClassVar[int]
    UNLOCK_FIELD_NUMBER: _ClassVar[int]
    STAT_FIELD_NUMBER: _ClassVar[int]
    SET_INFO_FIELD_NUMBER: _ClassVar[int]
    MKDIR_FIELD_NUMBER: _ClassVar[int]
    RMDIR_FIELD_NUMBER: _ClassVar[int]
    UNLINK_FIELD_NUMBER: _ClassVar[int]
    RENAME_FIELD_NUMBER: _ClassVar[int]
    READ_DIR_FIELD_NUMBER: _ClassVar[int]
    READ_DIR_REPLY_FIELD_NUMBER: _ClassVar[int]
    WRITE_FILE_FIELD_NUMBER: _ClassVar[int]
    READ_FILE_FIELD_NUMBER: _ClassVar[int]
    READ_FILE_REPLY_FIELD_NUMBER: _ClassVar[int]
    ABANDON_FIELD_NUMBER: _ClassVar[int]
    ABANDON_REPLY_FIELD_NUMBER: _ClassVar[int]
    END_CLIENT_FIELD_NUMBER: _ClassVar[int]
    HANDLE_CLOSED_FIELD_NUMBER: _ClassVar[int]
    CHANGE_LOCKS_FIELD_NUMBER: _ClassVar[int]
    LOCKS_CHANGED_FIELD_NUMBER: _ClassVar[int]
    WRITE_PARTS_FIELD_NUMBER: _ClassVar[int]
    REGISTER_NODE_FIELD_NUMBER: _ClassVar[int]
    REGISTER_NODE_REPLY_FIELD_NUMBER: _ClassVar[int]
    ACQUIRE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_REPLY_FIELD_NUMBER: _ClassVar[int]
    FETCH_EXTENTS_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_REPLY_FIELD_NUMBER: _ClassVar[int]
    COMMIT_RECORDS_FIELD_NUMBER: _ClassVar[int]
    DISCONNECTED_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    COMMIT_REPLY_FIELD_NUMBER: _ClassVar[int]
    LOCK_UPDATE_FIELD_NUMBER: _ClassVar[int]
    QUERY_SIZE_FIELD_NUMBER: _ClassVar[int]
    SIZE_REPLY_FIELD_NUMBER: _ClassVar[int]
    REPORT_CORRUPT_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_REPLY_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    FOLLOWED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_TAKEN_FIELD_NUMBER: _ClassVar[int]
    HAND_BACK_FIELD_NUMBER: _ClassVar[int]
    HAND_BACK_REPLY_FIELD_NUMBER: _ClassVar[int]
    GET_INTERFACE_LIST_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_LIST_FIELD_NUMBER: _ClassVar[int]
    REGISTER_WITNESS_FIELD_NUMBER: _ClassVar[int]
    REGISTER_WITNESS_REPLY_FIELD_NUMBER: _ClassVar[int]
    ASYNC_NOTIFY_FIELD_NUMBER: _ClassVar[int]
    NOTIFICATION_FIELD_NUMBER: _ClassVar[int]
    UNREGISTER_WITNESS_FIELD_NUMBER: _ClassVar[int]
    REGISTER_MEMBER_FIELD_NUMBER: _ClassVar[int]
    REGISTER_MEMBER_REPLY_FIELD_NUMBER: _ClassVar[int]
    SET_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    LIST_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    MEMBER_LIST_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_STATUS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_STATUS_REPLY_FIELD_NUMBER: _ClassVar[int]
    PART_STATE_FIELD_NUMBER: _ClassVar[int]
    PART_STATE_REPLY_FIELD_NUMBER: _ClassVar[int]
    LIST_CORRUPT_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_LIST_FIELD_NUMBER: _ClassVar[int]
    call: int
    is_reply: bool
    data_bytes: int
    trace: bytes
    failure: _common_pb2.Failure
    done: _common_pb2.Done
    ping: _common_pb2.Ping
    pong: _common_pb2.Pong
    hello: _common_pb2.Hello
    hello_reply: _common_pb2.HelloReply
    open: _file_pb2.Open
    open_reply: _file_pb2.OpenReply
    close: _file_pb2.Close
    info_reply: _file_pb2.InfoReply
    reclaim: _file_pb2.Reclaim
    reclaim_reply: _file_pb2.ReclaimReply
    read: _file_pb2.Read
    read_reply: _file_pb2.ReadReply
    write: _file_pb2.Write
    write_reply: _file_pb2.WriteReply
    flush: _file_pb2.Flush
    truncate: _file_pb2.Truncate
    lock: _file_pb2.Lock
    unlock: _file_pb2.Unlock
    stat: _file_pb2.Stat
    set_info: _file_pb2.SetInfo
    mkdir: _file_pb2.Mkdir
    rmdir: _file_pb2.Rmdir
    unlink: _file_pb2.Unlink
    rename: _file_pb2.Rename
    read_dir: _file_pb2.ReadDir
    read_dir_reply: _file_pb2.ReadDirReply
    write_file: _file_pb2.WriteFile
    read_file: _file_pb2.ReadFile
    read_file_reply: _file_pb2.ReadFileReply
    abandon: _file_pb2.Abandon
    abandon_reply: _file_pb2.AbandonReply
    end_client: _file_pb2.EndClient
    handle_closed: _file_pb2.HandleClosed
    change_locks: _file_pb2.ChangeLocks
    locks_changed: _file_pb2.LocksChanged
    write_parts: _file_pb2.WriteParts
    register_node: _volume_pb2.RegisterNode
    register_node_reply: _volume_pb2.RegisterNodeReply
    acquire_token: _volume_pb2.AcquireToken
    token_reply: _volume_pb2.TokenReply
    fetch_extents: _volume_pb2.FetchExtents
    extents_reply: _volume_pb2.ExtentsReply
    commit_records: _volume_pb2.CommitRecords
    disconnected: _volume_pb2.Disconnected
    recall: _volume_pb2.Recall
    detach: _volume_pb2.Detach
    commit_reply: _volume_pb2.CommitReply
    lock_update: _volume_pb2.LockUpdate
    query_size: _volume_pb2.QuerySize
    size_reply: _volume_pb2.SizeReply
    report_corrupt: _volume_pb2.ReportCorrupt
    follow: _resume_key_pb2.Follow
    follow_reply: _resume_key_pb2.FollowReply
    entries: _resume_key_pb2.Entries
    followed: _resume_key_pb2.Followed
    checkpoint_taken: _resume_key_pb2.CheckpointTaken
    hand_back: _resume_key_pb2.HandBack
    hand_back_reply: _resume_key_pb2.HandBackReply
    get_interface_list: _witness_pb2.GetInterfaceList
    interface_list: _witness_pb2.InterfaceList
    register_witness: _witness_pb2.RegisterWitness
    register_witness_reply: _witness_pb2.RegisterWitnessReply
    async_notify: _witness_pb2.AsyncNotify
    notification: _witness_pb2.Notification
    unregister_witness: _witness_pb2.UnregisterWitness
    register_member: _dns_pb2.RegisterMember
    register_member_reply: _dns_pb2.RegisterMemberReply
    set_members: _dns_pb2.SetMembers
    list_members: _dns_pb2.ListMembers
    member_list: _dns_pb2.MemberList
    cluster_status: _cluster_pb2.ClusterStatus
    cluster_status_reply: _cluster_pb2.ClusterStatusReply
    part_state: _cluster_pb2.PartState
    part_state_reply: _cluster_pb2.PartStateReply
    list_corrupt: _cluster_pb2.ListCorrupt
    corrupt_list: _cluster_pb2.CorruptList
    def __init__(self, call: _Optional[int] = ..., is_reply: _Optional[bool] = ..., data_bytes: _Optional[int] = ..., trace: _Optional[bytes] = ..., failure: _Optional[_Union[_common_pb2.Failure, _Mapping]] = ..., done: _Optional[_Union[_common_pb2.Done, _Mapping]] = ..., ping: _Optional[_Union[_common_pb2.Ping, _Mapping]] = ..., pong: _Optional[_Union[_common_pb2.Pong, _Mapping]] = ..., hello: _Optional[_Union[_common_pb2.Hello, _Mapping]] = ..., hello_reply: _Optional[_Union[_common_pb2.HelloReply, _Mapping]] = ..., open: _Optional[_Union[_file_pb2.Open, _Mapping]] = ..., open_reply: _Optional[_Union[_file_pb2.OpenReply, _Mapping]] = ..., close: _Optional[_Union[_file_pb2.Close, _Mapping]] = ..., info_reply: _Optional[_Union[_file_pb2.InfoReply, _Mapping]] = ..., reclaim: _Optional[_Union[_file_pb2.Reclaim, _Mapping]] = ..., reclaim_reply: _Optional[_Union[_file_pb2.ReclaimReply, _Mapping]] = ..., read: _Optional[_Union[_file_pb2.Read, _Mapping]] = ..., read_reply: _Optional[_Union[_file_pb2.ReadReply, _Mapping]] = ..., write: _Optional[_Union[_file_pb2.Write, _Mapping]] = ..., write_reply: _Optional[_Union[_file_pb2.WriteReply, _Mapping]] = ..., flush: _Optional[_Union[_file_pb2.Flush, _Mapping]] = ..., truncate: _Optional[_Union[_file_pb2.Truncate, _Mapping]] = ..., lock: _Optional[_Union[_file_pb2.Lock, _Mapping]] = ..., unlock: _Optional[_Union[_file_pb2.Unlock, _Mapping]] = ..., stat: _Optional[_Union[_file_pb2.Stat, _Mapping]] = ..., set_info: _Optional[_Union[_file_pb2.SetInfo, _Mapping]] = ..., mkdir: _Optional[_Union[_file_pb2.Mkdir, _Mapping]] = ..., rmdir: _Optional[_Union[_file_pb2.Rmdir, _Mapping]] = ..., unlink: _Optional[_Union[_file_pb2.Unlink, _Mapping]] = ..., rename: _Optional[_Union[_file_pb2.Rename, _Mapping]] = ..., read_dir: _Optional[_Union[_file_pb2.ReadDir, _Mapping]] = ..., read_dir_reply: _Optional[_Union[_file_pb2.ReadDirReply, _Mapping]] = ..., write_file: _Optional[_Union[_file_pb2.WriteFile, _Mapping]] = ..., read_file: _Optional[_Union[_file_pb2.ReadFile, _Mapping]] = ..., read_file_reply: _Optional[_Union[_file_pb2.ReadFileReply, _Mapping]] = ..., abandon: _Optional[_Union[_file_pb2.Abandon, _Mapping]] = ..., abandon_reply: _Optional[_Union[_file_pb2.AbandonReply, _Mapping]] = ..., end_client: _Optional[_Union[_file_pb2.EndClient, _Mapping]] = ..., handle_closed: _Optional[_Union[_file_pb2.HandleClosed, _Mapping]] = ..., change_locks: _Optional[_Union[_file_pb2.ChangeLocks, _Mapping]] = ..., locks_changed: _Optional[_Union[_file_pb2.LocksChanged, _Mapping]] = ..., write_parts: _Optional[_Union[_file_pb2.WriteParts, _Mapping]] = ..., register_node: _Optional[_Union[_volume_pb2.RegisterNode, _Mapping]] = ..., register_node_reply: _Optional[_Union[_volume_pb2.RegisterNodeReply, _Mapping]] = ..., acquire_token: _Optional[_Union[_volume_pb2.AcquireToken, _Mapping]] = ..., token_reply: _Optional[_Union[_volume_pb2.TokenReply, _Mapping]] = ..., fetch_extents: _Optional[_Union[_volume_pb2.FetchExtents, _Mapping]] = ..., extents_reply: _Optional[_Union[_volume_pb2.ExtentsReply, _Mapping]] = ..., commit_records: _Optional[_Union[_volume_pb2.CommitRecords, _Mapping]] = ..., disconnected: _Optional[_Union[_volume_pb2.Disconnected, _Mapping]] = ..., recall: _Optional[_Union[_volume_pb2.Recall, _Mapping]] = ..., detach: _Optional[_Union[_volume_pb2.Detach, _Mapping]] = ..., commit_reply: _Optional[_Union[_volume_pb2.CommitReply, _Mapping]] = ..., lock_update: _Optional[_Union[_volume_pb2.LockUpdate, _Mapping]] = ..., query_size: _Optional[_Union[_volume_pb2.QuerySize, _Mapping]] = ..., size_reply: _Optional[_Union[_volume_pb2.SizeReply, _Mapping]] = ..., report_corrupt: _Optional[_Union[_volume_pb2.ReportCorrupt, _Mapping]] = ..., follow: _Optional[_Union[_resume_key_pb2.Follow, _Mapping]] = ..., follow_reply: _Optional[_Union[_resume_key_pb2.FollowReply, _Mapping]] = ..., entries: _Optional[_Union[_resume_key_pb2.Entries, _Mapping]] = ..., followed: _Optional[_Union[_resume_key_pb2.Followed, _Mapping]] = ..., checkpoint_taken: _Optional[_Union[_resume_key_pb2.CheckpointTaken, _Mapping]] = ..., hand_back: _Optional[_Union[_resume_key_pb2.HandBack, _Mapping]] = ..., hand_back_reply: _Optional[_Union[_resume_key_pb2.HandBackReply, _Mapping]] = ..., get_interface_list: _Optional[_Union[_witness_pb2.GetInterfaceList, _Mapping]] = ..., interface_list: _Optional[_Union[_witness_pb2.InterfaceList, _Mapping]] = ..., register_witness: _Optional[_Union[_witness_pb2.RegisterWitness, _Mapping]] = ..., register_witness_reply: _Optional[_Union[_witness_pb2.RegisterWitnessReply, _Mapping]] = ..., async_notify: _Optional[_Union[_witness_pb2.AsyncNotify, _Mapping]] = ..., notification: _Optional[_Union[_witness_pb2.Notification, _Mapping]] = ..., unregister_witness: _Optional[_Union[_witness_pb2.UnregisterWitness, _Mapping]] = ..., register_member: _Optional[_Union[_dns_pb2.RegisterMember, _Mapping]] = ..., register_member_reply: _Optional[_Union[_dns_pb2.RegisterMemberReply, _Mapping]] = ..., set_members: _Optional[_Union[_dns_pb2.SetMembers, _Mapping]] = ..., list_members: _Optional[_Union[_dns_pb2.ListMembers, _Mapping]] = ..., member_list: _Optional[_Union[_dns_pb2.MemberList, _Mapping]] = ..., cluster_status: _Optional[_Union[_cluster_pb2.ClusterStatus, _Mapping]] = ..., cluster_status_reply: _Optional[_Union[_cluster_pb2.ClusterStatusReply, _Mapping]] = ..., part_state: _Optional[_Union[_cluster_pb2.PartState, _Mapping]] = ..., part_state_reply: _Optional[_Union[_cluster_pb2.PartStateReply, _Mapping]] = ..., list_corrupt: _Optional[_Union[_cluster_pb2.ListCorrupt, _Mapping]] = ..., corrupt_list: _Optional[_Union[_cluster_pb2.CorruptList, _Mapping]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("protocol_version", "envelopes", "payload")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENVELOPES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    envelopes: _containers.RepeatedCompositeFieldContainer[Envelope]
    payload: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., envelopes: _Optional[_Iterable[_Union[Envelope, _Mapping]]] = ..., payload: _Optional[bytes] = ...) -> None: ...
