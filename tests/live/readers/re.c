/* What libre, the stack of baresip, reads in the SIP request on standard input: a line `where name value` for each
 * header, the value in hexadecimal. `where` is `head`, or `uri` for a header inside the URI of Refer-To. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <re/re.h>

static void tell(char const *where, struct pl const *name, char const *value, size_t length) {
    printf("%s %.*s ", where, (int)name->l, name->p);
    for (size_t at = 0; at < length; at++) printf("%02x", (unsigned char)value[at]);
    printf("\n");
}

static int inside(struct pl const *name, struct pl const *value, void *unused) {
    static char text[65536];
    (void)unused;
    if (re_snprintf(text, sizeof text, "%H", uri_header_unescape, value) < 0) return 1;
    tell("uri", name, text, str_len(text));
    return 0;
}

int main(void) {
    static uint8_t octets[65536];
    struct mbuf *buffer = mbuf_alloc(sizeof octets);
    struct sip_msg *message;
    struct sip_addr to;

    mbuf_write_mem(buffer, octets, fread(octets, 1, sizeof octets, stdin));
    buffer->pos = 0;
    if (sip_msg_decode(&message, buffer)) return 1;
    for (struct le *one = list_head(&message->hdrl); one; one = one->next) {
        struct sip_hdr const *header = one->data;
        tell("head", &header->name, header->val.p, header->val.l);
    }
    struct sip_hdr const *refer_to = sip_msg_hdr(message, SIP_HDR_REFER_TO);
    if (!refer_to) return 0;
    return sip_addr_decode(&to, &refer_to->val) || uri_headers_apply(&to.uri.headers, inside, NULL);
}
