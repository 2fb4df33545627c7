/* Both new files are written beside their places before a unit is stopped. Permission bits and free blocks
 * don't show whether a write succeeds; only a write does. So Check writes as well, and removes the files. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "handoffd.h"
#include "paths.h"

/* For the five files of a few blocks that `iotedge config apply` writes. */
#define APPLIED_SPACE ((size_t) 32 * 1024)

/* For the helper's record, its budgets, its list of stopped units, and one of them once more while it is
 * replaced. */
#define STATE_SPACE ((size_t) 16 * 1024)

static int try_space(Operation *op, int dir, const char *name, size_t size, const char *path) {
        const StoreAttributes attributes = { .mode = 0600, .uid = (uid_t) -1, .gid = (gid_t) -1 };
        CLEANUP(store_discard) StoreFile file = {};
        CLEANUP(freep) char *zeros = calloc(1, size);
        int r = zeros ? store_prepare_at(&file, dir, name, zeros, size, &attributes) : -ENOMEM;

        return r < 0 ? operation_fail_write(op, r, path) : 0;
}

static int try_state(Operation *op) {
        CLEANUP(freep) char *path = NULL;
        CLEANUP(closep) int dir = -1;
        int r;

        r = path_under(&path, operation_root(op), PATH_STATE);
        if (r < 0)
                return operation_fail_write(op, r, PATH_RECORD);
        dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0)
                return failure_set_errno(&op->failure, FAILURE_STORAGE, errno, "'%s' can't be opened", path);
        return try_space(op, dir, "record.json", STATE_SPACE, PATH_RECORD);
}

static int prepare_config(Operation *op, int dir) {
        const Origin from = situation_origin(&op->situation);
        Plan *plan = &op->plan;
        int r;

        r = config_toml_edit(&plan->written, from.path, from.text, from.size, &op->wanted.provisioning,
                             &op->failure);
        return r < 0 ? r : config_prepare(op, dir, plan->written, &plan->config_file);
}

static int prepare_apply(Operation *op, int dir) {
        int r;

        r = applied_read(&op->plan.applied, operation_root(op), !op->situation.edgeless, &op->failure);
        return r < 0 ? r : try_space(op, dir, "00-super.toml", APPLIED_SPACE, PATH_CONFIG_DIR);
}

static int prepare(Operation *op, const char *hub, const char *device_id, bool device_info) {
        CLEANUP(closep) int dir = config_directory_open(op);
        Plan *plan = &op->plan;
        int r = 0;

        if (dir < 0)
                return dir;
        config_remove_leftovers(dir);
        device_info_remove_leftovers(operation_root(op));
        if (plan->write_config)
                r = prepare_config(op, dir);
        if (r >= 0 && device_info)
                r = device_info_prepare(&plan->info_file, operation_root(op), hub, device_id, &op->failure);
        if (r >= 0 && plan->run_apply)
                r = prepare_apply(op, dir);
        return r;
}

/* A record that can't be written later would undo a hand-off that has succeeded. */
int step_prepare(Operation *op) {
        const Assignment *a = &op->assignment;
        const Plan *plan = &op->plan;
        int r = 0;

        if (plan->write_config || plan->write_device_info || plan->run_apply)
                r = try_state(op);
        return r < 0 ? r : prepare(op, a->hub, a->device_id, plan->write_device_info);
}

/* Hub and device are not known yet, so their names are as long as names can be. The prepared files are
 * discarded with the operation. */
int step_try_writes(Operation *op) {
        char hub[256], device_id[129];
        int r;

        if (streq(op->result, "already"))
                return 0;
        memset(hub, 'x', sizeof(hub) - 1);
        memset(device_id, 'x', sizeof(device_id) - 1);
        hub[sizeof(hub) - 1] = device_id[sizeof(device_id) - 1] = '\0';
        r = try_state(op);
        return r < 0 ? r : prepare(op, hub, device_id, op->plan.adopt);
}
