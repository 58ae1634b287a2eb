"""The shaders of `raster`, in GLSL 3.30."""

__all__ = ['AMBIENT', 'LIGHT', 'OUTLINE', 'ROUGH', 'SURFACE', 'SURFACE_PIXELS', 'WHOLE']

_HEAD = '#version 330\n'

#: What a sun sees, for its shadow map.
OUTLINE = _HEAD + """
uniform mat4 sun;
in vec3 position;
void main() { gl_Position = sun * vec4(position, 1); }
"""

#: The same for each of the sky's suns, each in its own square of one map.
ROUGH = _HEAD + """
uniform mat4 suns[SUNS];
in vec3 position;
void main() {
    vec4 p = suns[gl_InstanceID] * vec4(position, 1);
    vec2 square = vec2(gl_InstanceID % SIDE, gl_InstanceID / SIDE);
    gl_Position = vec4((p.xy + 2 * square + 1 - SIDE) / SIDE, p.z, 1);
}
"""

SURFACE = _HEAD + """
uniform mat4 camera;
in vec3 position;
in vec3 normal;
in vec3 colour;
#if TEXTURED
in vec3 place;
out vec2 at;
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
}
"""

#: Writes a surface's colour and kind (0: sky, 0.5: the place, 0.75: moving, 1: the person), its normal and depth.
SURFACE_PIXELS = _HEAD + """
uniform float kind;
in vec3 facing;
in vec3 paint;
in float depth;
#if TEXTURED
uniform sampler2D cloth;
in vec2 at;
#endif
layout(location = 0) out vec4 colour;
layout(location = 1) out vec4 surface;
void main() {
    colour = vec4(paint, kind);
#if TEXTURED
    colour.rgb *= texture(cloth, at).rgb;
#endif
    surface = vec4(facing, depth);
}
"""

WHOLE = _HEAD + """
void main() { gl_Position = vec4(4 * (gl_VertexID % 2) - 1, 4 * (gl_VertexID / 2) - 1, 0, 1); }
"""

_SEEN = _HEAD + """
uniform sampler2D surfaces;
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

#: Shares of the sky's light that reach what is seen, of what reaches it on open ground; and its depth.
AMBIENT = _SEEN + """
uniform sampler2D colours;
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
    ivec2 first = 2 * ivec2(gl_FragCoord.xy), nearest = first;
    vec4 surface = texelFetch(surfaces, first, 0);
    for (int k = 1; k < 4; k++) {
        ivec2 quarter = first + ivec2(k & 1, k >> 1);
        vec4 other = texelFetch(surfaces, quarter, 0);
        if (other.w > 0 && (other.w < surface.w || surface.w == 0)) { surface = other; nearest = quarter; }
    }
    share = vec2(1, surface.w);
    if (surface.w == 0) return;
    vec3 point = seen(nearest, surface.w), n = front(surface.xyz, point);
    bool stays = texelFetch(colours, nearest, 0).a < 0.6;
    vec3 off = point + margin * n;
    float reaching = 0, all = 1e-4;
    for (int k = 0; k < SUNS; k++) {
        float weight = max(dot(n, towards[k]), 0);
        float light = 1;
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

#: Light of the sun and the sky from each pixel, and how much of it is the person.
LIGHT = _SEEN + """
uniform sampler2D colours;
uniform sampler2D shares;
uniform sampler2DShadow moving;
uniform sampler2DShadow still;
uniform mat4 sun;
uniform mat4 place_sun;
uniform vec2 scale;  // of the moving map, per metre
uniform vec2 place_scale;
uniform vec2 texel;  // metres of a pixel of the two maps
uniform bool crowd;
uniform vec3 towards;
uniform vec3 sun_light;
uniform vec3 sky_light;
uniform float reach;  // metres at a metre's depth, over which shadows are smoothed
out vec4 light;
float lit(sampler2DShadow map, mat4 sun, vec3 point, vec2 spread) {
    vec3 p = (sun * vec4(point, 1)).xyz;
    if (max(abs(p.x), abs(p.y)) > 0.98) return 1.0;
    p = vec3(0.5 * p.xy + 0.5, clamp(0.5 * p.z + 0.5, 0, 1));
    float sum = 0;
    for (int k = 0; k < 4; k++) sum += texture(map, p + vec3(spread * (vec2(k & 1, k >> 1) - 0.5), 0));
    return sum / 4;
}
float around(ivec2 pixel, ivec2 step, float depth) {
    const float near[4] = float[](0.5625, 0.1875, 0.1875, 0.0625);
    ivec2 last = textureSize(shares, 0) - 1;
    float sum = 0, weights = 0;
    for (int k = 0; k < 4; k++) {
        vec2 share = texelFetch(shares, clamp(pixel + step * ivec2(k & 1, k >> 1), ivec2(0), last), 0).xy;
        float weight = near[k] * (exp(-8 * abs(share.y - depth)) + 1e-3);
        sum += weight * share.x;
        weights += weight;
    }
    return sum / weights;
}
void main() {
    ivec2 pixel = ivec2(gl_FragCoord.xy);
    light = vec4(0);
    for (int k = 0; k < 4; k++) {
        ivec2 part = ivec2(k & 1, k >> 1), quarter = 2 * pixel + part;
        vec4 colour = texelFetch(colours, quarter, 0), surface = texelFetch(surfaces, quarter, 0);
        if (surface.w == 0) {
            light.rgb += sky_light;
            continue;
        }
        vec3 point = seen(quarter, surface.w), n = front(surface.xyz, point);
        float facing = dot(n, towards);
        if (facing > 0) {
            vec3 off = n + towards;
            float width = reach * surface.w;
            if (crowd) facing *= lit(moving, sun, point + (0.004 + 1.5 * texel.x) * off, width * scale);
            facing *= lit(still, place_sun, point + (0.004 + 1.5 * texel.y) * off, width * place_scale);
        }
        vec3 falling = sun_light * max(facing, 0) / 3.14159265;
        falling += sky_light * (0.5 + 0.5 * n.z) * around(pixel, 2 * part - 1, surface.w);
        light += vec4(colour.rgb * falling, float(colour.a > 0.9));
    }
    light /= 4;
}
"""
