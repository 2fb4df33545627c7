#include "toml-names.h"

#include <errno.h>
#include <stdlib.h>

#include "toml.h"

typedef enum NameKind {
        NAME_IMPLIED, /* a table that only the header of one below it has named: may still be defined */
        NAME_DOTTED,  /* a table that dotted keys have made: more of them may follow, and headers below it */
        NAME_TABLE,   /* [x], an element of [[x]], the root, an inline table */
        NAME_ARRAY,   /* [[x]] */
        NAME_VALUE,   /* x = … */
} NameKind;

struct TomlName {
        TomlName *next;         /* in its bucket */
        const TomlName *parent; /* NULL: reached by its address only */
        TomlName *element;      /* of NAME_ARRAY: the last one */
        NameKind kind;
        size_t size, number;
        char text[];
};

static size_t bucket_of(const TomlName *parent, const char *text, size_t size) {
        size_t hash = parent->number;

        for (size_t i = 0; i < size; i++)
                hash = hash * 31 + (unsigned char) text[i];
        return hash % TOML_NAMES_BUCKETS;
}

static TomlName *find(const TomlNames *names, const TomlName *parent, const char *text, size_t size) {
        TomlName *name = names->buckets[bucket_of(parent, text, size)];

        while (name &&
               !(name->parent == parent && name->size == size && memcmp(name->text, text, size) == 0))
                name = name->next;
        return name;
}

static int add(TomlNames *names, const TomlName *parent, const char *text, size_t size, NameKind kind,
               TomlName **ret) {
        size_t bucket = parent ? bucket_of(parent, text, size) : names->count % TOML_NAMES_BUCKETS;
        TomlName *name = calloc(1, sizeof(*name) + size);

        if (!name)
                return -ENOMEM;
        *name = (TomlName){ .next = names->buckets[bucket],
                            .parent = parent,
                            .kind = kind,
                            .size = size,
                            .number = ++names->count * 2654435761u };
        if (size > 0)
                memcpy(name->text, text, size);
        names->buckets[bucket] = name;
        *ret = name;
        return 0;
}

static int add_table(TomlNames *names, TomlName **ret) {
        return add(names, NULL, "", 0, NAME_TABLE, ret);
}

int toml_names_init(TomlNames *names) {
        *names = (TomlNames){};
        return add_table(names, &names->root);
}

void toml_names_deinit(TomlNames *names) {
        for (size_t i = 0; i < TOML_NAMES_BUCKETS; i++)
                for (TomlName *name = names->buckets[i], *next; name; name = next) {
                        next = name->next;
                        free(name);
                }
        *names = (TomlNames){};
}

/* Follows all parts of a path but the last one, which becomes *path, and makes what is missing. */
static int walk(TomlNames *names, TomlName **table, const char **path, NameKind missing) {
        for (const char *end; (end = strchr(*path, TOML_SEPARATOR[0])); *path = end + 1) {
                size_t size = (size_t) (end - *path);
                TomlName *name = find(names, *table, *path, size);
                int r = name ? 0 : add(names, *table, *path, size, missing, &name);

                if (r < 0)
                        return r;
                if (name->kind == NAME_VALUE)
                        return -EEXIST;
                if (missing == NAME_DOTTED) { /* a dotted key can't reach into what a header has defined */
                        if (name->kind != NAME_DOTTED && name->kind != NAME_IMPLIED)
                                return -EEXIST;
                        name->kind = NAME_DOTTED;
                }
                *table = name->kind == NAME_ARRAY ? name->element : name;
        }
        return 0;
}

int toml_names_header(TomlNames *names, const char *path, bool array, TomlName **ret_table) {
        TomlName *table = names->root, *name;
        int r;

        r = walk(names, &table, &path, NAME_IMPLIED);
        if (r < 0)
                return r;
        name = find(names, table, path, strlen(path));
        if (!name)
                r = add(names, table, path, strlen(path), array ? NAME_ARRAY : NAME_TABLE, &name);
        else if (array ? name->kind != NAME_ARRAY : name->kind != NAME_IMPLIED)
                r = -EEXIST;
        else if (!array)
                name->kind = NAME_TABLE;
        if (r >= 0 && array)
                r = add_table(names, &name->element);
        if (r >= 0)
                *ret_table = array ? name->element : name;
        return r;
}

int toml_names_key(TomlNames *names, TomlName *table, const char *path) {
        TomlName *name;
        int r;

        r = walk(names, &table, &path, NAME_DOTTED);
        if (r >= 0 && find(names, table, path, strlen(path)))
                r = -EEXIST;
        return r < 0 ? r : add(names, table, path, strlen(path), NAME_VALUE, &name);
}

int toml_names_inline_table(TomlNames *names, TomlName **ret_table) {
        return add_table(names, ret_table);
}
