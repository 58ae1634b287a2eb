"""The shaders of `raster`, in GLSL 3.30."""

__all__ = ['AMBIENT', 'LIGHT', 'OUTLINE', 'ROUGH', 'SURFACE', 'SURFACE_PIXELS', 'TILES', 'WHO']
__all__ += ['WHOLE']

_HEAD = '#version 330\n'

#: What a sun sees, for its shadow map.
OUTLINE = (
    _HEAD
    + """
uniform mat4 sun;
in vec3 position;
void main() { gl_Position = sun * vec4(position, 1); }
"""
)

#: The same for each of the sky's suns, each in its own square of one map.
ROUGH = (
    _HEAD
    + """
uniform mat4 suns[SUNS];
in vec3 position;
void main() {
    vec4 p = suns[gl_InstanceID] * vec4(position, 1);
    vec2 square = vec2(gl_InstanceID % SIDE, gl_InstanceID / SIDE);
    gl_Position = vec4((p.xy + 2 * square + 1 - SIDE) / SIDE, p.z, 1);
}
"""
)

SURFACE = (
    _HEAD
    + """
uniform mat4 camera;
in vec3 position;
in vec3 normal;
in vec3 colour;
#if TEXTURED
in vec3 place;
out vec2 at;
#endif
#if GLOSSY
in float gloss;
out float shine;
#endif
out vec3 facing;
out vec3 paint;
out float depth;
void main() {
    gl_Position = camera * vec4(position, 1);
    facing = normal;
    paint = colour;
    depth = gl_Position.w;
#if TEXTURED
    at = place.xy;
#endif
#if GLOSSY
    shine = gloss;
#endif
}
"""
)

#: Who is seen, by number.
WHO = (
    OUTLINE.replace('sun', 'camera'),
    _HEAD
    + """
uniform float who;
out float number;
void main() { number = who; }
""",
)

#: Writes a surface's colour and kind (0: sky, 0.5: the place, 0.75: moving, 1: the person or vehicle that the image is
#: of), its normal and depth. A gloss is added to the kind: as it is to 1, an eighth of it to 0.75.
SURFACE_PIXELS = (
    _HEAD
    + """
uniform float kind;
in vec3 facing;
in vec3 paint;
in float depth;
#if TEXTURED
uniform sampler2D cloth;
in vec2 at;
#endif
#if GLOSSY
in float shine;
#endif
layout(location = 0) out vec4 colour;
layout(location = 1) out vec4 surface;
void main() {
    colour = vec4(paint, kind);
#if GLOSSY
    colour.a += (kind > 0.9 ? 1.0 : 0.125) * clamp(shine, 0, 1);
#endif
#if TEXTURED
    vec3 root = texture(cloth, at).rgb;
    colour.rgb *= root * root;
#endif
    surface = vec4(facing, depth);
}
"""
)

WHOLE = (
    _HEAD
    + """
void main() { gl_Position = vec4(4 * (gl_VertexID % 2) - 1, 4 * (gl_VertexID / 2) - 1, 0, 1); }
"""
)

#: Parts of an image alone, by corners in pixels.
TILES = (
    _HEAD
    + """
uniform vec2 extent;
in vec2 corner;
void main() { gl_Position = vec4(2 * corner / extent - 1, 0, 1); }
"""
)

_SEEN = (
    _HEAD
    + """
uniform sampler2D surfaces;
uniform sampler2D colours;
#if OVER
uniform sampler2D still_surfaces;
uniform sampler2D still_colours;
bool moves(vec4 surface, vec4 behind) { return surface.w > 0 && (behind.w == 0 || surface.w < behind.w); }
vec4 surface_at(ivec2 quarter) {
    vec4 surface = texelFetch(surfaces, quarter, 0), behind = texelFetch(still_surfaces, quarter, 0);
    return moves(surface, behind) ? surface : behind;
}
vec4 colour_at(ivec2 quarter) {
    vec4 surface = texelFetch(surfaces, quarter, 0), behind = texelFetch(still_surfaces, quarter, 0);
    return moves(surface, behind) ? texelFetch(colours, quarter, 0) : texelFetch(still_colours, quarter, 0);
}
#else
vec4 surface_at(ivec2 quarter) { return texelFetch(surfaces, quarter, 0); }
vec4 colour_at(ivec2 quarter) { return texelFetch(colours, quarter, 0); }
#endif
uniform vec3 eye;
uniform mat3 view;  // right, up and forward, the first two of the length of half the image at a metre
uniform vec2 size;
// The point that is seen in a quarter of a pixel.
vec3 seen(ivec2 quarter, float depth) {
    vec2 p = (vec2(quarter) + 0.5) / size - 1;
    return eye + depth * (view * vec3(p, 1));
}
// The normal on the side that is seen.
vec3 front(vec3 normal, vec3 point) {
    vec3 n = normalize(normal);
    return dot(n, eye - point) < 0 ? -n : n;
}
"""
)

#: Shares of the sky's light that reach what is seen, of what reaches it on open ground, and its depth: of 2 x 2 pixels.
AMBIENT = (
    _SEEN
    + """
uniform sampler2DShadow moving;
uniform sampler2DShadow still;
uniform mat4 suns[SUNS];
uniform mat4 place_suns[SUNS];
uniform vec3 towards[SUNS];
uniform float margin;
uniform bool crowd;
uniform vec4 wall;  // its distance, slope and height; 0 for none
out vec2 share;
float lit(sampler2DShadow map, mat4 sun, vec3 point, int k) {
    vec3 p = (sun * vec4(point, 1)).xyz;
    if (max(abs(p.x), abs(p.y)) > 0.97) return 1.0;
    vec2 corner = (vec2(k % SIDE, k / SIDE) + 0.5 * p.xy + 0.5) / SIDE;
    return texture(map, vec3(corner, clamp(0.5 * p.z + 0.5, 0, 1)));
}
void main() {
    ivec2 first = 4 * ivec2(gl_FragCoord.xy), nearest = first;  // of 4 x 4 quarters
    vec4 surface = surface_at(first);
    for (int k = 1; k < 4; k++) {
        ivec2 quarter = min(first + 2 * ivec2(k & 1, k >> 1), ivec2(size) * 2 - 1);
        vec4 other = surface_at(quarter);
        if (other.w > 0 && (other.w < surface.w || surface.w == 0)) { surface = other; nearest = quarter; }
    }
    share = vec2(1, surface.w);
    if (surface.w == 0) return;
    vec3 point = seen(nearest, surface.w), n = front(surface.xyz, point);
    bool stays = colour_at(nearest).a < 0.6;
    vec3 off = point + margin * n;
    float reaching = 0, all = 1e-4;
    for (int k = 0; k < SUNS; k++) {
        float weight = dot(n, towards[k]), light = 1;
        if (weight <= 0) continue;
        if (crowd) light = lit(moving, suns[k], off + margin * towards[k], k);
        if (stays) light = min(light, lit(still, place_suns[k], point + 0.25 * (n + towards[k]), k));
        reaching += weight * light;
        all += weight;
    }
    share.x = (reaching + 1e-4) / all;
    vec2 across = vec2(-wall.y, 1) / sqrt(1 + wall.y * wall.y);
    float away = dot(vec2(0, wall.x) - point.xy, across), above = wall.z - point.z;
    if (above > 0 && away > 0.02) {  // a wall without ends hides a wedge of the sky
        vec2 edge = vec2(away, above) / length(vec2(away, above));
        float hidden = 0.5 * max(0, dot(n.xy, across) * edge.y + n.z * (1 - edge.x));
        share.x *= clamp(1 - hidden / max(0.5 + 0.5 * n.z, 0.05), 0, 1);
    }
}
"""
)

#: Light of the sun and the sky from each pixel, and how much of it is the person.
LIGHT = (
    _SEEN
    + """
uniform sampler2D shares;
uniform sampler2DShadow moving;
uniform sampler2DShadow still;
uniform mat4 sun;
uniform mat4 place_sun;
uniform vec2 scale;  // of the moving map, per metre
uniform vec2 place_scale;
uniform vec2 margin;  // metres by which the two maps may be wrong
uniform bool crowd;
uniform vec3 towards;
uniform vec3 sun_light;
uniform vec3 sky_light;
uniform float reach;  // metres at a metre's depth, over which shadows are smoothed
out vec4 light;
// Two samples aside of the point; those of a pixel's other quarters lie between.
float lit(sampler2DShadow map, mat4 sun, vec3 point, vec2 aside) {
    vec3 p = (sun * vec4(point, 1)).xyz;
    if (max(abs(p.x), abs(p.y)) > 0.98) return 1.0;
    p = vec3(0.5 * p.xy + 0.5, clamp(0.5 * p.z + 0.5, 0, 1));
    return (texture(map, p + vec3(aside, 0)) + texture(map, p - vec3(aside, 0))) / 2;
}
// The share of the sky's light: of the four 2 x 2 pixels around, those that are about as deep.
float around(ivec2 quarter, float depth) {
    vec2 p = (vec2(quarter) + 0.5) / 4 - 0.5;
    ivec2 low = ivec2(floor(p)), last = textureSize(shares, 0) - 1;
    vec2 t = p - vec2(low);
    float sum = 0, weights = 0;
    for (int k = 0; k < 4; k++) {
        ivec2 corner = ivec2(k & 1, k >> 1);
        vec2 share = texelFetch(shares, clamp(low + corner, ivec2(0), last), 0).xy;
        vec2 near = mix(1 - t, t, vec2(corner));
        float away = 15 * (share.y - depth), weight = (near.x * near.y + 0.01) / (1 + away * away * away * away);
        sum += weight * share.x;
        weights += weight;
    }
    return sum / (weights + 1e-9);
}
#if GLOSSY
// What a ray that leaves a surface meets: sky with a skyline before it, or the road.
vec3 met(vec3 ray) {
    float turn = atan(ray.y, ray.x), line = 0.2 + 0.1 * sin(3 * turn + 1) + 0.06 * sin(8 * turn);
    vec3 built = 0.3 * sky_light + 0.07 * sun_light, road = 0.15 * (sky_light + 0.25 * towards.z * sun_light);
    vec3 above = mix(built, (1.2 - 0.4 * ray.z) * sky_light, smoothstep(line - 0.05, line + 0.05, ray.z));
    return mix(road, above, smoothstep(-0.05, 0.03, ray.z));
}
// The light of a surface with some gloss, up to 0.5 a varnish, above that a metal.
vec3 glossy(vec3 plain, vec4 colour, vec3 point, vec3 n, float lit, float open) {
    float gloss = colour.a > 0.9 ? colour.a - 1 : max(8 * (colour.a - 0.75), 0);
    if (gloss < 0.01) return plain;
    vec3 to = normalize(eye - point), ray = reflect(-to, n);
    float metal = clamp(2 * gloss - 1, 0, 1), coat = min(2 * gloss, 1), away = 1 - max(dot(n, to), 0);
    vec3 back = mix(vec3(0.05), colour.rgb, metal);
    back += (1 - back) * away * away * away * away * away;
    vec3 seen = met(ray) * (0.3 + 0.7 * open) + 14 * sun_light * lit * pow(max(dot(ray, towards), 0), 220);
    return plain * (1 - metal) + coat * back * seen;
}
#endif
vec3 shaded(vec4 colour, vec4 surface, ivec2 quarter, vec2 turn) {
    vec3 point = seen(quarter, surface.w), n = front(surface.xyz, point);
    float facing = dot(n, towards);
    if (facing > 0) {
        vec3 off = n + towards;
        vec2 aside = reach * surface.w * turn;
        if (crowd) facing *= lit(moving, sun, point + margin.x * off, aside * scale);
        if (facing > 0) facing *= lit(still, place_sun, point + margin.y * off, aside * place_scale);
    }
    vec3 falling = sun_light * max(facing, 0) / 3.14159265;
#if GLOSSY
    float open = around(quarter, surface.w);
    falling += sky_light * (0.5 + 0.5 * n.z) * open;
    return glossy(colour.rgb * falling, colour, point, n, facing > 0.001 ? 1.0 : 0.0, open);
#else
    falling += sky_light * (0.5 + 0.5 * n.z) * around(quarter, surface.w);
    return colour.rgb * falling;
#endif
}
void main() {
    ivec2 first = 2 * ivec2(gl_FragCoord.xy);
    vec4 colours_[4], surfaces_[4], colour = vec4(0), surface = vec4(0);
    float near = 1e9, far = 0;
    for (int k = 0; k < 4; k++) {
        ivec2 quarter = first + ivec2(k & 1, k >> 1);
        colours_[k] = colour_at(quarter);
        surfaces_[k] = surface_at(quarter);
        colour += colours_[k] / 4;
        surface += vec4(normalize(surfaces_[k].xyz + vec3(1e-9)), surfaces_[k].w) / 4;
        near = min(near, surfaces_[k].w);
        far = max(far, surfaces_[k].w);
    }
    if (far == 0) {
        light = vec4(sky_light, 0);
    } else if (far - near < 0.03 && dot(surface.xyz, surface.xyz) > 0.8) {  // one surface: lit once
        light = vec4(shaded(colour, surface, first, vec2(1, 0.3)), colour.a > 0.9);
    } else {
        light = vec4(0);
        for (int k = 0; k < 4; k++) {
            ivec2 part = ivec2(k & 1, k >> 1);
            if (surfaces_[k].w == 0) {
                light.rgb += sky_light / 4;
            } else {
                vec2 turn = part.x == part.y ? vec2(1, 0.3) : vec2(-0.3, 1);
                light.rgb += shaded(colours_[k], surfaces_[k], first + part, turn) / 4;
                light.a += float(colours_[k].a > 0.9) / 4;
            }
        }
    }
}
"""
)
