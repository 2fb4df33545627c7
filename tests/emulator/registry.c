#include "registry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#define REGISTRY_FILE_MAX ((size_t) 64 * 1024 * 1024)

struct Registry {
        char *path;
        Device **devices; /* pointers, so that a Device stays where it is when the list grows */
        size_t n;
};

static const char *const substatuses[] = { "initialAssignment", "deviceDataMigrated", "deviceDataReset",
                                           "reprovisionedToInitialAssignment" };

static Device *device_free(Device *device) {
        if (!device)
                return NULL;
        free(device->registration_id);
        free(device->device_id);
        free(device->hub);
        json_object_put(device->modules);
        explicit_bzero(device->key, sizeof(device->key));
        free(device);
        return NULL;
}

static void device_freep(Device **device) {
        *device = device_free(*device);
}

static int device_add(Registry *registry, Device **device) {
        Device **devices = reallocarray(registry->devices, registry->n + 1, sizeof(Device *));

        if (!devices)
                return -ENOMEM;
        registry->devices = devices;
        devices[registry->n++] = TAKE(*device);
        return 0;
}

static Device *device_new(const char *registration_id, const char *device_id, const char *hub) {
        CLEANUP(device_freep) Device *device = calloc(1, sizeof(*device));

        if (!device)
                return NULL;
        device->registration_id = strdup(registration_id);
        device->device_id = strdup(device_id);
        device->hub = strdup(hub);
        device->modules = json_object_new_object();
        device->substatus = substatuses[0];
        if (!device->registration_id || !device->device_id || !device->hub || !device->modules)
                return NULL;
        return TAKE(device);
}

static int device_from_json(Registry *registry, json_object *object) {
        CLEANUP(device_freep) Device *device = NULL;
        CLEANUP(bytes_deinit) Bytes key = {};
        const char *registration_id = json_string(object, "registrationId", REGISTRATION_ID_MAX);
        const char *device_id = json_string(object, "deviceId", REGISTRATION_ID_MAX);
        const char *hub = json_string(object, "hub", 255), *text = json_string(object, "key", 64);
        json_object *modules;

        if (!registration_id || !device_id || !hub || !text ||
            base64_decode(&key, text, TPM_CRYPTO_KEY_SIZE) < 0 || key.size != TPM_CRYPTO_KEY_SIZE)
                return -EBADMSG;
        device = device_new(registration_id, device_id, hub);
        if (!device)
                return -ENOMEM;
        memcpy(device->key, key.data, key.size);

        text = json_string(object, "created", sizeof(device->created) - 1);
        (void) snprintf(device->created, sizeof(device->created), "%s", text ? text : "");
        text = json_string(object, "updated", sizeof(device->updated) - 1);
        (void) snprintf(device->updated, sizeof(device->updated), "%s", text ? text : "");
        text = json_string(object, "etag", sizeof(device->etag) - 1);
        (void) snprintf(device->etag, sizeof(device->etag), "%s", text ? text : "");
        text = json_string(object, "generation", sizeof(device->generation) - 1);
        (void) snprintf(device->generation, sizeof(device->generation), "%s", text ? text : "");
        text = json_string(object, "substatus", 64);
        for (size_t i = 0; text && i < ARRAY_SIZE(substatuses); i++)
                if (streq(text, substatuses[i]))
                        device->substatus = substatuses[i];
        if (json_object_object_get_ex(object, "modules", &modules) &&
            json_object_is_type(modules, json_type_object)) {
                json_object_put(device->modules);
                device->modules = json_object_get(modules);
        }
        return device_add(registry, &device);
}

static int registry_load(Registry *registry) {
        CLEANUP(freep) char *text = NULL;
        json_object *root;
        size_t n;
        int r;

        r = read_file(registry->path, REGISTRY_FILE_MAX, &text, NULL);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return r;
        root = json_tokener_parse(text);
        if (!json_object_is_type(root, json_type_array)) {
                json_object_put(root);
                return -EBADMSG;
        }
        n = json_object_array_length(root);
        for (size_t i = 0; r == 0 && i < n; i++)
                r = device_from_json(registry, json_object_array_get_idx(root, i));
        json_object_put(root);
        return r;
}

static json_object *device_to_json(const Device *device) {
        CLEANUP(secret_freep) char *key = NULL;
        json_object *object = json_object_new_object();

        if (base64_encode(&key, device->key, sizeof(device->key)) < 0)
                key = NULL;
        json_add_string(object, "registrationId", device->registration_id);
        json_add_string(object, "deviceId", device->device_id);
        json_add_string(object, "hub", device->hub);
        json_add_string(object, "key", key);
        json_add_string(object, "created", device->created);
        json_add_string(object, "updated", device->updated);
        json_add_string(object, "etag", device->etag);
        json_add_string(object, "generation", device->generation);
        json_add_string(object, "substatus", device->substatus);
        json_add(object, "modules", json_object_get(device->modules));
        return object;
}

static int write_file(const char *path, const char *text) {
        CLEANUP(freep) char *temporary = NULL;
        CLEANUP(fclosep) FILE *file = NULL;
        int fd, r;

        if (asprintf(&temporary, "%s.new", path) < 0) {
                temporary = NULL;
                return -ENOMEM;
        }
        fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        file = fdopen(fd, "w");
        if (!file) {
                r = -errno;
                (void) close(fd);
                return r;
        }
        if (fputs(text, file) == EOF || fputc('\n', file) == EOF)
                return -EIO;
        if (fclose(TAKE(file)) != 0)
                return -errno;
        return rename(temporary, path) < 0 ? -errno : 0;
}

int registry_save(Registry *registry) {
        json_object *root = json_object_new_array();
        const char *text;
        int r;

        if (!root)
                return -ENOMEM;
        for (size_t i = 0; i < registry->n; i++)
                (void) json_object_array_add(root, device_to_json(registry->devices[i]));
        text = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY);
        r = text ? write_file(registry->path, text) : -ENOMEM;
        json_object_put(root);
        return r;
}

int registry_open(Registry **ret, const char *path) {
        Registry *registry = calloc(1, sizeof(*registry));
        int r = -ENOMEM;

        if (!registry)
                return -ENOMEM;
        registry->path = strdup(path);
        if (registry->path)
                r = registry_load(registry);
        if (r < 0) {
                registry_close(registry);
                return r;
        }
        *ret = registry;
        return 0;
}

Registry *registry_close(Registry *registry) {
        if (!registry)
                return NULL;
        for (size_t i = 0; i < registry->n; i++)
                device_free(registry->devices[i]);
        free(registry->devices);
        free(registry->path);
        free(registry);
        return NULL;
}

Device *registry_find(Registry *registry, const char *registration_id) {
        for (size_t i = 0; i < registry->n; i++)
                if (strcasecmp(registry->devices[i]->registration_id, registration_id) == 0)
                        return registry->devices[i];
        return NULL;
}

Device *registry_next_at_hub(Registry *registry, const char *hub, const char *device_id,
                             const Device *after) {
        bool skip = after != NULL;

        for (size_t i = 0; i < registry->n; i++) {
                Device *device = registry->devices[i];

                if (skip) {
                        skip = device != after;
                        continue;
                }
                /* device IDs are case-sensitive, but identityd's tokens are not: callers compare those */
                if (host_equal(device->hub, hub) && streq(device->device_id, device_id))
                        return device;
        }
        return NULL;
}

static json_object *new_symmetric_keys(void) {
        json_object *authentication = json_object_new_object(), *keys = json_object_new_object();
        static const char *const names[] = { "primaryKey", "secondaryKey" };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                CLEANUP(secret_freep) char *text = NULL;
                uint8_t key[TPM_CRYPTO_KEY_SIZE];

                if (tpm_crypto_random(key, sizeof(key)) == 0 && base64_encode(&text, key, sizeof(key)) == 0)
                        json_add_string(keys, names[i], text);
        }
        json_add_string(authentication, "type", "sas");
        json_add(authentication, "symmetricKey", keys);
        return authentication;
}

json_object *registry_new_module(const Device *device, const char *module_id, const char *managed_by,
                                 json_object *authentication) {
        json_object *module = json_object_new_object();
        char generation[24];

        (void) snprintf(generation, sizeof(generation), "%llu",
                        (unsigned long long) (now_usec(CLOCK_REALTIME) * 10));
        json_add_string(module, "moduleId", module_id);
        json_add_string(module, "managedBy", managed_by);
        json_add_string(module, "deviceId", device->device_id);
        json_add_string(module, "generationId", generation);
        json_add_string(module, "etag", device->etag);
        json_add_string(module, "connectionState", "Disconnected");
        json_add_string(module, "connectionStateUpdatedTime", "0001-01-01T00:00:00Z");
        json_add_string(module, "lastActivityTime", "0001-01-01T00:00:00Z");
        json_add(module, "cloudToDeviceMessageCount", json_object_new_int(0));
        json_add(module, "authentication", authentication ? authentication : new_symmetric_keys());
        return module;
}

/* A hub creates the two system modules when a device becomes an IoT Edge device. */
static void add_system_modules(Device *device) {
        static const char *const names[] = { "$edgeAgent", "$edgeHub" };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (!json_object_object_get_ex(device->modules, names[i], NULL))
                        json_add(device->modules, names[i],
                                 registry_new_module(device, names[i], "iotEdge", NULL));
}

/* The identity begins anew: another hub, another device ID, or the first time. */
static int begin(Device *device, const Enrollment *enrollment, bool keep_key, time_t now) {
        json_object *modules = json_object_new_object();
        int r;

        if (!modules)
                return -ENOMEM;
        r = string_replace(&device->hub, enrollment->hub);
        if (r == 0)
                r = string_replace(&device->device_id, enrollment->device_id);
        if (r == 0 && !keep_key)
                r = tpm_crypto_random(device->key, sizeof(device->key));
        if (r < 0) {
                json_object_put(modules);
                return r;
        }
        json_object_put(device->modules);
        device->modules = modules;
        timestamp(device->created, now);
        (void) snprintf(device->generation, sizeof(device->generation), "%llu",
                        (unsigned long long) (now_usec(CLOCK_REALTIME) * 10));
        return 0;
}

/* The device as it is, a second time and behind itself: registry_find() does not find this one, its hub
 * does. */
static int leave_behind(Registry *registry, const Device *device) {
        CLEANUP(device_freep)
        Device *old = device_new(device->registration_id, device->device_id, device->hub);

        if (!old)
                return -ENOMEM;
        json_object_put(old->modules);
        old->modules = json_object_get(device->modules);
        memcpy(old->key, device->key, sizeof(old->key));
        memcpy(old->created, device->created, sizeof(old->created));
        memcpy(old->updated, device->updated, sizeof(old->updated));
        memcpy(old->etag, device->etag, sizeof(old->etag));
        memcpy(old->generation, device->generation, sizeof(old->generation));
        old->substatus = device->substatus;
        return device_add(registry, &old);
}

/* What it left behind at the hub that it has come back to. */
static void forget_left_behind(Registry *registry, const Device *device) {
        size_t kept = 0;

        for (size_t i = 0; i < registry->n; i++) {
                Device *other = registry->devices[i];

                if (other != device && strcasecmp(other->registration_id, device->registration_id) == 0 &&
                    host_equal(other->hub, device->hub) && streq(other->device_id, device->device_id))
                        device_free(other);
                else
                        registry->devices[kept++] = other;
        }
        registry->n = kept;
}

int registry_assign(Registry *registry, const Enrollment *enrollment, HubKeys keys, bool keep_old,
                    time_t now, Device **ret) {
        CLEANUP(device_freep) Device *new = NULL;
        Device *device = registry_find(registry, enrollment->registration_id);
        uint32_t etag[2] = {};
        int r = 0;

        if (!device) {
                device = new =
                        device_new(enrollment->registration_id, enrollment->device_id, enrollment->hub);
                if (!new)
                        return -ENOMEM;
                r = begin(device, enrollment, false, now);
        } else if (streq(device->device_id, enrollment->device_id) &&
                   (streq(device->hub, enrollment->hub) || !enrollment->update_hub)) {
                device->substatus = "reprovisionedToInitialAssignment";
                if (keys == HUB_KEYS_ROTATE)
                        r = tpm_crypto_random(device->key, sizeof(device->key));
        } else {
                device->substatus = enrollment->migrate_data ? "deviceDataMigrated" : "deviceDataReset";
                if (keep_old)
                        r = leave_behind(registry, device);
                if (r == 0)
                        r = begin(device, enrollment, keys == HUB_KEYS_KEEP, now);
                forget_left_behind(registry, device);
        }
        if (r == 0)
                r = tpm_crypto_random(etag, sizeof(etag));
        if (r == 0 && new)
                r = device_add(registry, &new);
        if (r < 0)
                return r;

        (void) snprintf(device->etag, sizeof(device->etag), "%08x%08x", etag[0], etag[1]);
        timestamp(device->updated, now);
        if (enrollment->iot_edge)
                add_system_modules(device);
        *ret = device;
        return registry_save(registry);
}
